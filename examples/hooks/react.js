/** Hooks for React: useStats(push, "flights", { window: "1m" }) and useLatest(push, "job.42") return live arrays. */

import { useEffect, useMemo, useSyncExternalStore } from "react";

const none = [];

function useLive(push, kind, topic, filters) {
  const name = JSON.stringify([kind, topic, filters]);
  const store = useMemo(() => {
    let live = null;
    return {
      subscribe(changed) {
        live = push[kind](topic, filters);
        const end = live.subscribe(changed);
        return () => { end(); live.close(); live = null; };
      },
      read: () => live?.value ?? none,
    };
  }, [push, name]);
  return useSyncExternalStore(store.subscribe, store.read, () => none);
}

export const useStats = (push, topic, filters = {}) => useLive(push, "stats", topic, filters);
export const useLatest = (push, topic, filters = {}) => useLive(push, "latest", topic, filters);
export const useEvents = (push, topic, filters, listener) =>
  useEffect(() => {
    const live = push.events(topic, filters, listener);
    return () => live.close();
  }, [push, topic, JSON.stringify(filters), listener]);
