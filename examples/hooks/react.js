/** Hooks for React: useStats(push, "flights", { window: "1m" }) and useLatest(push, "job.42") return live arrays. */

import { useEffect, useState } from "react";

function useLive(push, kind, topic, filters) {
  const [value, setValue] = useState([]);
  useEffect(() => {
    const live = push[kind](topic, filters);
    const end = live.subscribe(() => setValue(live.value));
    return () => { end(); live.close(); setValue([]); };
  }, [push, kind, topic, JSON.stringify(filters)]);
  return value;
}

export const useStats = (push, topic, filters = {}) => useLive(push, "stats", topic, filters);
export const useLatest = (push, topic, filters = {}) => useLive(push, "latest", topic, filters);
export const useEvents = (push, topic, filters, listener) => useEffect(() => {
  const live = push.events(topic, filters, listener);
  return () => live.close();
}, [push, topic, JSON.stringify(filters), listener]);
