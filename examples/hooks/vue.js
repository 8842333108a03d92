/** Composables for Vue: useStats(push, "flights", () => ({ window: props.window })) and useLatest(push, topic) return live
 * refs. A topic and filters may be refs or getters: when they change, the subscription does. */
import { shallowRef, toValue, watchEffect } from "vue";

function useSubscription(push, kind, topic, filters, listener) {
  const value = shallowRef([]);
  watchEffect((onCleanup) => {
    const live = push[kind](toValue(topic), toValue(filters), listener);
    value.value = live.value;
    live.subscribe(() => { value.value = live.value; });
    onCleanup(() => live.close());
  });
  return value;
}

export const useStats = (push, topic, filters = {}) => useSubscription(push, "stats", topic, filters);
export const useLatest = (push, topic, filters = {}) => useSubscription(push, "latest", topic, filters);
export const useEvents = (push, topic, filters, listener) => void useSubscription(push, "events", topic, filters, listener);
