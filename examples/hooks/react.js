/** Hooks for React: useStats(push, "flights", { window: "1m" }) and useLatest(push, "job.42") return live arrays. */
import { useEffect, useRef, useState } from "react";

const NONE = [];

function useSubscription(push, kind, topic, filters, listener) {
  const asked = JSON.stringify([kind, topic, filters]);
  const [shown, setShown] = useState({});
  const newest = useRef(); // a new function at each rendering is no new subscription, which would miss events
  useEffect(() => { newest.current = listener; });
  useEffect(() => {
    const live = push[kind](topic, filters, (...given) => newest.current?.(...given));
    if (!listener) live.subscribe(() => setShown({ push, asked, value: live.value }));
    return () => live.close();
  }, [push, asked]);
  return shown.push === push && shown.asked === asked ? shown.value : NONE; // never the rows of other arguments
}
export const useStats = (push, topic, filters = {}) => useSubscription(push, "stats", topic, filters);
export const useLatest = (push, topic, filters = {}) => useSubscription(push, "latest", topic, filters);
export const useEvents = (push, topic, filters, listener) => void useSubscription(push, "events", topic, filters, listener);
