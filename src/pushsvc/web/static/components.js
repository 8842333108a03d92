/** The groups of components that read a topic: how far each of them is, and what its handlers did. */

import { text } from "./dom.js";
import { formatCount, formatValue } from "./format.js";
import { element, replaceItems } from "./list.js";

const ASK_INTERVAL = 5_000;
/** Without a group, or after an error, the server is asked more and more rarely. */
const MAX_INTERVAL = 60_000;
const SHOWN = 20;
const SHOWN_TYPES = 10;

const find = (id) => document.getElementById(id);

export class Components {
  #topic = null;
  #groups = [];
  /** By the name of a group: the events that it had handled in all, and when that was told. */
  #handled = new Map();
  #request = new AbortController();
  #timer = 0;
  #interval = ASK_INTERVAL;
  #forbidden = false;

  /** Show the groups that read a topic (null: none). */
  show(topic) {
    if (topic === this.#topic) return;
    this.#topic = topic;
    this.#groups = [];
    this.#handled.clear();
    this.#interval = ASK_INTERVAL;
    this.#draw();
    this.refresh();
  }

  /** Forget that nothing is shown to this visitor: there may be another one. */
  restart() {
    this.#forbidden = false;
    this.show(null);
  }

  /** Ask the server now, and from time to time as long as the page is seen. */
  async refresh() {
    clearTimeout(this.#timer);
    this.#request.abort();
    if (this.#topic === null || this.#forbidden || document.hidden) return;
    this.#request = new AbortController();
    const { signal } = this.#request;
    try {
      const answer = await fetch(`v1/components?topic=${encodeURIComponent(this.#topic)}`, { signal });
      this.#forbidden = answer.status === 401 || answer.status === 403;
      if (!answer.ok) throw new Error(answer.statusText);
      this.#take((await answer.json()).groups);
    } catch {
      if (signal.aborted) return;
      this.#interval = Math.min(MAX_INTERVAL, 2 * this.#interval);
    }
    if (!this.#forbidden) this.#timer = setTimeout(() => this.refresh(), this.#interval * (0.75 + Math.random() / 2));
  }

  #take(groups) {
    this.#interval = groups.length > 0 ? ASK_INTERVAL : Math.min(MAX_INTERVAL, 2 * this.#interval);
    const now = performance.now();
    const told = new Map();
    this.#groups = groups.map(({ group, totals, topics: [topic] }) => {
      const handled = totals === null ? null : totals.handled;
      if (handled !== null) told.set(group, { handled, at: now });
      const before = this.#handled.get(group);
      const rate = handled === null || before === undefined ? null : ((handled - before.handled) / (now - before.at)) * 1_000;
      return { group, totals, topic, rate };
    });
    this.#handled = told;
    this.#draw();
  }

  #draw() {
    find("components").hidden = this.#groups.length === 0;
    const behind = this.#groups.filter(({ topic }) => topic.lag + topic.parked > 0).length;
    const more = this.#groups.length > SHOWN ? `, the first ${SHOWN} of ${this.#groups.length} are shown` : "";
    text(find("components-state"), (behind === 0 ? "All are up to date" : `${formatCount(behind)} behind`) + more);
    replaceItems(find("components-list"), this.#groups.slice(0, SHOWN).map(cellsOf));
  }
}

function cellsOf({ group, totals, topic, rate }) {
  const { lag, parked, states, unknown_types: unknown } = topic;
  const waiting = lag > 0 ? `${formatCount(lag)} behind` : some(parked, "held back");
  const counts = totals === null ? [] : [
    rate === null ? "" : `${formatValue(Math.round(rate * 10) / 10)} events/s`,
    `${formatCount(totals.handled)} handled`, some(totals.failures, "failed attempt", "s"), some(totals.dead, "given up"),
    some(totals.trimmed, "trimmed unread"),
  ];
  const here = [lag > 0 ? some(parked, "held back") : "", some(states, "key", "s", " with state"), typesOf(unknown)];
  return [
    element("span", `state ${waiting ? "pending" : "ok"}`, waiting || "Up to date"),
    element("b", "", group),
    element("span", "quiet", [...counts, ...here].filter((part) => part !== "").join(" · ")),
  ];
}

function some(count, what, plural = "", after = "") {
  return count === 0 ? "" : `${formatCount(count)} ${what}${count === 1 ? "" : plural}${after}`;
}

/** The types of events that no handler of a group takes, the most frequent first. */
function typesOf(unknown) {
  const found = Object.entries(unknown).sort(([, a], [, b]) => b - a);
  if (found.length === 0) return "";
  const named = found.slice(0, SHOWN_TYPES).map(([type, count]) => `${type} ${formatCount(count)}×`);
  return `unknown types: ${named.join(", ")}${found.length > SHOWN_TYPES ? ", …" : ""}`;
}
