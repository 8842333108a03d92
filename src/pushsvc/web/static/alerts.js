/** The alerts of a topic: what each of them is now, what was raised and resolved, and both as marks for the chart. */

import { text } from "./dom.js";
import { formatCount, formatMoment, formatTime, formatValue, keyName } from "./format.js";
import { element, replaceItems } from "./list.js";

const ASK_INTERVAL = 15_000;
const TRANSITIONS = 100;
const SHOWN = 20;
const SHOWN_STATES = 50;
const STATES = { raised: "Raised", pending: "Pending", ok: "OK" };
const ORDER = Object.keys(STATES);

const find = (id) => document.getElementById(id);

export class Alerts {
  #onChange;
  #onKey;
  #topic = null;
  #rules = [];
  #events = [];
  #request = new AbortController();
  #timer = 0;
  /** Whether there are alerts whose events the page may read: then following them is worth its while. */
  streamed = false;

  /**
   * @param {function(): void} onChange called when something else is to be shown
   * @param {function(string): void} onKey called with the key of an alert that the visitor chose
   */
  constructor(onChange, onKey) {
    this.#onChange = onChange;
    this.#onKey = onKey;
  }

  /** Show the alerts of a topic (null: none). */
  show(topic) {
    if (topic === this.#topic) return;
    this.#topic = topic;
    this.#forget();
    this.refresh();
  }

  /** What selects the events of the topic's alerts. */
  get filters() {
    return { where: `topic=${JSON.stringify(this.#topic)}` };
  }

  /** Take an event of the subscription. */
  take(event) {
    if (event.topic !== this.#topic || this.#events.some(({ $offset }) => $offset === event.$offset)) return;
    this.#events = [...this.#events, event].slice(-TRANSITIONS);
    this.refresh();
    this.#onChange();
  }

  /** What was raised and resolved of the charted keys, as {time, raised, text}. */
  marks(keys) {
    const about = ({ row }) => row === null || keys.includes(row);
    return this.#events.filter(about).map((event) => ({
      time: Date.parse(event.time), raised: event.type === "raised", text: `${event.alert}${of(event.row)} ${event.type}`,
    }));
  }

  /** Ask the server anew, now and from time to time. */
  async refresh() {
    clearTimeout(this.#timer);
    if (this.#topic === null || document.hidden) return;
    this.#request.abort();
    this.#request = new AbortController();
    const { signal } = this.#request;
    this.#timer = setTimeout(() => this.refresh(), ASK_INTERVAL * (0.75 + Math.random() / 2));
    try {
      const { alerts } = await read(`v1/alerts?topic=${encodeURIComponent(this.#topic)}`, signal);
      const events = alerts.length > 0 ? await this.#transitions(signal) : [];
      this.streamed = events !== null && alerts.length > 0;
      this.#rules = alerts;
      this.#events = events ?? [];
    } catch {
      if (signal.aborted) return; // else nobody may ask, or the server is away: the page shows that elsewhere
    }
    this.#onChange();
  }

  draw() {
    const rows = this.#rules.flatMap(statesOf).sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state));
    find("alerts").hidden = rows.length === 0;
    if (rows.length === 0) return;
    const raised = rows.filter(({ state }) => state === "raised").length;
    const more = rows.length > SHOWN_STATES ? `, the first ${SHOWN_STATES} of ${rows.length} are shown` : "";
    text(find("alerts-state"), (raised === 0 ? "None is raised" : `${formatCount(raised)} raised`) + more);
    const list = rows.slice(0, SHOWN_STATES).map((row) => [
      element("span", `state ${row.state}`, STATES[row.state]),
      element("b", "", row.name),
      this.#key(row.row),
      element("code", "", row.when),
      element("span", "quiet", row.state === "ok" ? "" : `since ${formatTime(row.since)} · ${formatValue(row.value)}`),
    ]);
    replaceItems(find("alerts-list"), list);
    find("alerts-past").hidden = this.#events.length === 0;
    const past = this.#events.slice(-SHOWN).reverse();
    replaceItems(find("alerts-events"), past.map((event) => this.#transition(event)));
  }

  #transition({ time, type, alert, row, value }) {
    const when = element("time", "quiet", formatTime(time));
    when.dateTime = time;
    when.title = formatMoment(time);
    const state = element("span", `state ${type}`, type === "raised" ? "Raised" : "Resolved");
    return [state, element("b", "", alert), this.#key(row), when, element("span", "quiet", formatValue(value))];
  }

  #key(key) {
    if (key === null || key === undefined) return element("span", "", "");
    const button = element("button", "key", keyName(key));
    button.type = "button";
    button.addEventListener("click", () => this.#onKey(key));
    return button;
  }

  /** Resolve to the newest events of the topic's alerts, or to null if they may not be read. */
  async #transitions(signal) {
    try {
      return (await read(`v1/topics/alerts/events?last=${TRANSITIONS}&${new URLSearchParams(this.filters)}`, signal)).events;
    } catch (error) {
      if (signal.aborted) throw error;
      return null;
    }
  }

  #forget() {
    this.#rules = [];
    this.#events = [];
    this.streamed = false;
    this.draw();
  }
}

/** The rows of an alert, each with its state; one that is fine if it has none. */
function statesOf({ name, when, states }) {
  if (!states?.length) return [{ name, when, state: "ok", row: null }];
  return states.map((state) => ({ name, when, ...state }));
}

function of(row) {
  return row === null || row === undefined ? "" : ` (${row})`;
}

async function read(address, signal) {
  const answer = await fetch(address, { signal, headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}
