/** What the page has of one topic and window: its rows, the newest frame, and the history of the rows that are charted. */

import { Backfill } from "./backfill.js";
import { History } from "./history.js";
import { zeroRow } from "./ranking.js";
import { grouped, reset, rowId } from "./state.js";

const LATE = 5_000; // ms, and this part of its length, by which the end of a window may differ from the present
const LATE_PART = 1 / 20;

export class View {
  rows = new Map();
  history = new History();
  frame = null;
  #backfill;
  #groupings = new Set();

  /** @param {function(): void} onFilled called when a charted row got its past */
  constructor(onFilled) {
    this.#backfill = new Backfill(onFilled);
  }

  /** Whether there are rows to draw: the frame of a topic that does not exist yet has no `since`. */
  get drawable() {
    return this.frame !== null && this.frame.since !== null;
  }

  /** Apply a frame. `charted` are the rows, as {id, key, field}, whose history is wanted; `now` is the clock (ms). */
  receive(apply, data, charted, clock) {
    const by = data.columns?.indexOf("by") ?? -1;
    if (by >= 0) for (const row of data.data) this.#groupings.add(row[by]);
    const frame = grouped(data);
    apply(this.rows, frame);
    clock.observe(frame.at ?? Date.now());
    const { newest } = clock;
    this.history.reconnect(newest);
    const wanted = new Set(charted.map(({ id }) => id));
    for (const row of frame.data) {
      const id = rowId(row[0], row[1]);
      this.history.record(newest, id, row, row[0] === null || wanted.has(id));
    }
    this.history.retain((id) => this.rows.has(id) || wanted.has(id));
    this.frame = { ...frame, data: null, gone: null };
    if (!this.drawable) return;
    for (const { id, key, field } of charted) {
      if (!this.rows.has(id)) this.history.record(newest, id, zeroRow(frame.columns, key, field), true);
    }
  }

  /** Record rows that are charted from now on, and ask for what a statistic of them was before. */
  chart(charted, statistic, clock) {
    for (const row of charted) {
      const { id, key, field } = row;
      if (this.history.begin(id) === null) this.history.record(clock.newest, id, this.row(key, field), true);
      if (this.#isPresent(clock)) this.#backfill.ask(this, row, statistic, clock.now());
      else this.#backfill.skip(id);
    }
  }

  /** Whether the window ends now. On a clock of events that is elsewhere, the series has other times than the chart. */
  #isPresent(clock) {
    const [from, to] = [this.frame.from, this.frame.to].map((time) => Date.parse(time));
    return Math.abs(to - clock.newest) < LATE + (to - from) * LATE_PART;
  }

  /** Whether the charted rows have their past, or never will. */
  settled(charted) {
    return charted.every(({ id }) => this.#backfill.settled(id));
  }

  row(key, field) {
    return this.rows.get(rowId(key, field)) ?? zeroRow(this.frame.columns, key, field);
  }

  /** The key and the grouping by which the server knows a key of the page. */
  sought(key) {
    const by = [...this.#groupings].find((grouping) => grouping !== null && key?.startsWith(`${grouping}: `)) ?? null;
    return { by, key: by === null ? key : key.slice(by.length + 2) };
  }

  /** Forget the rows: the server lost the position. */
  reset() {
    reset(this.rows);
    this.history.clear();
  }

  close() {
    this.#backfill.close();
  }
}
