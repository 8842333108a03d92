/** Composables for Vue: useStats(push, "flights", () => ({ window: props.window })) and useLatest(push, topic) return live
 * refs. A topic and filters may be refs or getters: when they change, the subscription does. */

import { shallowRef, toValue, watchEffect } from "vue";

function useLive(push, kind, topic, filters) {
  const value = shallowRef([]);
  watchEffect((onCleanup) => {
    const live = push[kind](toValue(topic), toValue(filters));
    value.value = live.value;
    live.subscribe(() => { value.value = live.value; });
    onCleanup(() => live.close());
  });
  return value;
}

export const useStats = (push, topic, filters = {}) => useLive(push, "stats", topic, filters);
export const useLatest = (push, topic, filters = {}) => useLive(push, "latest", topic, filters);
export const useEvents = (push, topic, filters, listener) => watchEffect((onCleanup) => {
  const live = push.events(toValue(topic), toValue(filters), listener);
  onCleanup(() => live.close());
});
