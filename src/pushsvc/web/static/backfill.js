/** The minutes before the page was opened: rows of a chart, read from the series of the server. */

import { SPAN } from "./history.js";
import { numericStatisticsOf, zeroRow } from "./ranking.js";

const MOST_POINTS = 299; // what the server gives without a step
const ATTEMPTS = 4;
const BUSY = new Set([429, 503]);
/** What the server has at once; it has to count for the others, three times as long. */
const FAST = new Set(["count", "rate", "sum", "mean", "min", "max", "std"]);

export class Backfill {
  #request = new AbortController();
  #asked = new Map();
  /** One request at a time: a server has few seats for long ones, and other visitors. */
  #turn = Promise.resolve();
  #onFilled;

  /** @param {function(): void} onFilled called when a row was filled or cannot be */
  constructor(onFilled) {
    this.#onFilled = onFilled;
  }

  /** Fill the history of a row with what it was in the last minutes before `now` (ms); once for each kind of statistic. */
  ask(view, row, statistic, now) {
    const known = this.#asked.get(row.id);
    if (known && (known.all || FAST.has(statistic))) return;
    const wanted = { all: !FAST.has(statistic), done: false };
    this.#asked.set(row.id, wanted);
    this.#turn = this.#turn.then(() => this.#fill(view, row, wanted, now));
  }

  async #fill(view, { id, key, field }, wanted, now) {
    const { frame } = view;
    const all = numericStatisticsOf(frame.columns, field).map(([name]) => name);
    const names = wanted.all ? all : all.filter((name) => FAST.has(name));
    try {
      const points = await read(frame, view.sought(key), field, names, now, this.#request.signal);
      view.history.fill(id, points.map(({ at, values }) => ({ at, row: rowOf(frame.columns, key, field, values) })));
    } catch {
      // The chart begins with the present, as for windows that have no series.
    }
    if (this.#request.signal.aborted) return;
    wanted.done = true;
    this.#onFilled();
  }

  /** Note that a row has no past. */
  skip(id) {
    if (!this.#asked.has(id)) this.#asked.set(id, { all: true, done: true });
  }

  /** Whether a row was filled, or cannot be. */
  settled(id) {
    return this.#asked.get(id)?.done ?? false;
  }

  close() {
    this.#request.abort();
  }
}

/** Resolve to points {at, values by statistic}; reject if the server has no such series. */
async function read({ topic, window }, { key, by }, field, names, now, signal) {
  for (let attempt = 1; ; attempt += 1) {
    const query = new URLSearchParams({ window, stat: names, since: new Date(now - SPAN + SPAN / MOST_POINTS).toISOString() });
    for (const [name, value] of Object.entries({ key, by, field })) {
      if (value !== null) query.set(name, value);
    }
    const response = await fetch(`v1/topics/${encodeURIComponent(topic)}/stats/series?${query}`, { signal });
    if (response.ok) {
      const { times, stats } = await response.json();
      return times.map((at, i) => ({ at, values: Object.fromEntries(Object.entries(stats).map(([name, of]) => [name, of[i]])) }));
    }
    // Not every field has distinct values.
    if (response.status === 400 && names.includes("distinct")) names = names.filter((name) => name !== "distinct");
    else if (!BUSY.has(response.status) || attempt === ATTEMPTS) throw new Error(String(response.status));
    else await new Promise((resolve) => setTimeout(resolve, 1_000 * (response.headers.get("Retry-After") || 1)));
    signal.throwIfAborted();
  }
}

/** A row as the stream would have sent it. */
function rowOf(columns, key, field, values) {
  const row = zeroRow(columns, key, field);
  columns.forEach((name, i) => {
    row[i] = values[name] ?? row[i];
  });
  return row;
}
