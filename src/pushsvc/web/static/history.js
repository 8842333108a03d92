/** The values of each row in the last minutes, at most two a second. */

export const SPAN = 300_000;
const SLOT = 500;
const MAX_SERIES = 200;
const MIN_GAP = 5_000;

export class History {
  #series = new Map();
  /** When the first value of a row was recorded: what is before was filled in. */
  #recorded = new Map();
  #gaps = [];
  #disconnectedAt = null;

  clear() {
    this.#series.clear();
    this.#recorded.clear();
    this.#gaps = [];
    this.#disconnectedAt = null;
  }

  /** Record `row` at server time `at` (ms). Beyond MAX_SERIES rows only those with `keep` are recorded. */
  record(at, id, row, keep) {
    let points = this.#series.get(id);
    if (points === undefined) {
      if (!keep && this.#series.size >= MAX_SERIES) return;
      this.#series.set(id, (points = []));
      this.#recorded.set(id, at);
    }
    const last = points.at(-1);
    if (last && Math.floor(last.at / SLOT) === Math.floor(at / SLOT)) points.pop();
    points.push({ at, row });
    // The newest point before the span stays: its value still holds when the span begins.
    while (points.length > 1 && points[1].at < at - SPAN) points.shift();
  }

  /** Put `points` of {at, row}, in the order of time, before what was recorded of a row, in place of earlier ones. */
  fill(id, points) {
    const begin = this.#recorded.get(id) ?? Infinity;
    const recorded = (this.#series.get(id) ?? []).filter(({ at }) => at >= begin);
    this.#series.set(id, [...points.filter(({ at }) => at < begin), ...recorded]);
  }

  /** Delete the series of rows for which `wanted` is false. */
  retain(wanted) {
    for (const id of this.#series.keys()) {
      if (wanted(id)) continue;
      this.#series.delete(id);
      this.#recorded.delete(id);
    }
  }

  /** Mark the values from `at` until `reconnect` as unknown. */
  disconnect(at) {
    this.#disconnectedAt ??= at;
  }

  reconnect(at) {
    if (this.#disconnectedAt !== null && at - this.#disconnectedAt >= MIN_GAP) this.#gaps.push([this.#disconnectedAt, at]);
    this.#disconnectedAt = null;
    this.#gaps = this.#gaps.filter(([, to]) => to > at - SPAN);
  }

  /** The last value of a row's column (its index in the row), or null. */
  last(id, index) {
    return this.#series.get(id)?.at(-1)?.row[index] ?? null;
  }

  /**
   * One column as lines of [time, value]. A line ends where the row has no value or the connection was lost. A value
   * holds until the next one, so only the last slot before a change is drawn as a slope.
   */
  lines(id, index, now) {
    const points = this.#series.get(id) ?? [];
    const lines = [];
    let line = null;
    points.forEach(({ at, row }, i) => {
      const value = row[index] ?? null;
      if (value === null) {
        line = null;
        return;
      }
      if (line === null) lines.push((line = []));
      line.push([at, value]);
      const until = points[i + 1]?.at ?? this.#disconnectedAt ?? now;
      const gap = this.#gaps.find(([from]) => from >= at && from < until);
      if (gap) {
        line.push([gap[0], value]);
        line = gap[1] < until ? [[gap[1], value]] : null;
        if (line) lines.push(line);
      }
      const held = points[i + 1] ? until - SLOT : until;
      if (line && held > line.at(-1)[0]) line.push([held, value]);
    });
    return lines;
  }

  /** Server time of the first point of a row, or null. */
  begin(id) {
    return this.#series.get(id)?.[0]?.at ?? null;
  }
}
