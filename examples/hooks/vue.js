/** Composables for Vue: useStats(push, "flights", { window: "1m" }) and useLatest(push, "job.42") return live refs. */

import { onScopeDispose, shallowRef } from "vue";

function useLive(push, kind, topic, filters) {
  const live = push[kind](topic, filters);
  const value = shallowRef(live.value);
  live.subscribe(() => { value.value = live.value; });
  onScopeDispose(() => live.close());
  return value;
}

export const useStats = (push, topic, filters = {}) => useLive(push, "stats", topic, filters);
export const useLatest = (push, topic, filters = {}) => useLive(push, "latest", topic, filters);

export function useEvents(push, topic, filters, listener) {
  const live = push.events(topic, filters, listener);
  onScopeDispose(() => live.close());
}
