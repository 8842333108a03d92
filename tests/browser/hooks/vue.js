/** A Vue component over the composables; show(topic, window) renders it with other arguments, hide() unmounts it. */

import { connect } from "@pushsvc/client";
import { createApp, h, reactive, ref } from "vue";
import { useEvents, useLatest, useStats } from "examples/hooks/vue.js";

const push = connect(".");
const shown = reactive({});

const board = {
  props: ["topic", "window"],
  setup(props) {
    const seen = ref([]);
    const rows = useStats(push, () => props.topic, () => ({ window: props.window }));
    const jobs = useLatest(push, () => `job.${props.topic}`);
    useEvents(push, () => props.topic, {}, (event, name) => seen.value.push(name === "event" ? event.n : name));
    return () => {
      globalThis.mixed ||= rows.value.some((row) => row.topic !== props.topic || row.window !== props.window);
      return [
        rows.value.map(({ key, field, count, sum }) => h("p", JSON.stringify([key, field, count, sum]))),
        jobs.value.map(({ key, n }) => h("i", JSON.stringify([key, n]))),
        h("b", JSON.stringify(seen.value)),
      ];
    };
  },
};

const app = createApp(() => h(board, shown));

globalThis.show = (topic, window) => {
  Object.assign(shown, { topic, window });
  if (!app._container) app.mount(document.body);
};
globalThis.hide = () => app.unmount();
