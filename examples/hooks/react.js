/** Hooks for React: useStats(push, "flights", { window: "1m" }) and useLatest(push, "job.42") return live arrays. */

import { useEffect, useRef, useState } from "react";

const NONE = [];

function useLive(push, kind, topic, filters) {
  const asked = JSON.stringify([kind, topic, filters]);
  const [shown, setShown] = useState({ value: NONE });
  useEffect(() => {
    const live = push[kind](topic, filters);
    live.subscribe(() => setShown({ push, asked, value: live.value }));
    return () => live.close();
  }, [push, asked]);
  return shown.push === push && shown.asked === asked ? shown.value : NONE; // never the rows of other arguments
}

export const useStats = (push, topic, filters = {}) => useLive(push, "stats", topic, filters);
export const useLatest = (push, topic, filters = {}) => useLive(push, "latest", topic, filters);

export function useEvents(push, topic, filters, listener) {
  const newest = useRef(listener); // a new function at each rendering is no new subscription, which would miss events
  useEffect(() => { newest.current = listener; });
  useEffect(() => {
    const live = push.events(topic, filters, (event, name) => newest.current(event, name));
    return () => live.close();
  }, [push, topic, JSON.stringify(filters)]);
}
