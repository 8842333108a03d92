/** What was done to an event: stored, counted, handled by components, corrected, deleted. */

import { formatInstant } from "./format.js";
import { element } from "./list.js";

/** Return a list of the steps in the life of the event at an address; they appear once the server has answered. */
export function lifeOf(address) {
  const list = element("ol", "life", "");
  list.ariaLabel = "What was done to the event";
  read(list, address);
  return list;
}

async function read(list, address) {
  let lines;
  try {
    const answer = await fetch(address);
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail ?? body.title);
    lines = body.life.map(lineOf);
  } catch (error) {
    lines = [`What was done to it cannot be read: ${error.message}`];
  }
  list.replaceChildren(...lines.map((line) => element("li", "", line)));
}

function lineOf(step) {
  const when = step.at === undefined ? "" : ` ${formatInstant(step.at)}`;
  const place = step.offset === undefined ? "" : ` at offset ${step.offset}`;
  switch (step.step) {
    case "stored": return `Stored${when}${place}`;
    case "counted": return step.windows.length > 0 ? `Counted in ${step.windows.join(", ")}` : "Counted in no window: it came too late";
    case "component": return `${step.group}: ${outcomeOf(step)}`;
    case "corrected": return `Corrected${when}${place}`;
    case "deleted": return `Deleted${when}${place}`;
    default: return step.step;
  }
}

function outcomeOf({ outcome, attempts }) {
  if (outcome === "waiting") return "has not come to it";
  if (outcome !== "parked") return outcome;
  return attempts === 0 ? "waits for an earlier event of its key" : `failed ${attempts}×, is tried again`;
}
