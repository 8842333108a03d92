/** A React component over the hooks; show(topic, window) renders it with other arguments, hide() unmounts it. */

import { connect } from "@pushsvc/client";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useEvents, useLatest, useStats } from "examples/hooks/react.js";

const push = connect(".");
const root = createRoot(document.body);

function Board({ topic, window }) {
  const [seen, setSeen] = useState([]);
  const rows = useStats(push, topic, { window });
  const jobs = useLatest(push, `job.${topic}`);
  useEvents(push, topic, {}, (event, name) => setSeen((all) => [...all, name === "event" ? event.n : name]));
  globalThis.mixed ||= rows.some((row) => row.topic !== topic || row.window !== window);
  return (
    <>
      {rows.map(({ key, field, count, sum }) => <p key={`${key} ${field}`}>{JSON.stringify([key, field, count, sum])}</p>)}
      {jobs.map(({ key, n }) => <i key={key}>{JSON.stringify([key, n])}</i>)}
      <b>{JSON.stringify(seen)}</b>
    </>
  );
}

globalThis.show = (topic, window) => root.render(<StrictMode><Board topic={topic} window={window} /></StrictMode>);
globalThis.hide = () => root.unmount();
