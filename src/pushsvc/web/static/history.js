/** What the page remembers of the last minutes: for each row the values it had, at most two a second. */

export const SPAN = 300_000;
const SLOT = 500;
const MAX_SERIES = 200;
const SHORTEST_GAP = 5_000;

export class History {
  #series = new Map();
  #gaps = [];
  #lostAt = null;

  clear() {
    this.#series.clear();
    this.#gaps = [];
    this.#lostAt = null;
  }

  /** Remember `row` at server time `at` (ms). Beyond a number of rows only those with `keep` are remembered. */
  record(at, id, row, keep) {
    let points = this.#series.get(id);
    if (points === undefined) {
      if (!keep && this.#series.size >= MAX_SERIES) return;
      this.#series.set(id, (points = []));
    }
    const last = points.at(-1);
    if (last && Math.floor(last.at / SLOT) === Math.floor(at / SLOT)) points.pop();
    points.push({ at, row });
    // The newest of the points before the span stays: its value is the one that still held when the span began.
    while (points.length > 1 && points[1].at < at - SPAN) points.shift();
  }

  /** Forget the rows that `wanted` does not want. */
  retain(wanted) {
    for (const id of this.#series.keys()) {
      if (!wanted(id)) this.#series.delete(id);
    }
  }

  /** The connection was lost at `at`: what follows is unknown until `regain`. */
  lose(at) {
    this.#lostAt ??= at;
  }

  regain(at) {
    if (this.#lostAt !== null && at - this.#lostAt >= SHORTEST_GAP) this.#gaps.push([this.#lostAt, at]);
    this.#lostAt = null;
    this.#gaps = this.#gaps.filter(([, to]) => to > at - SPAN);
  }

  /** The last value of a row's column (its index in the row), or null. */
  last(id, index) {
    return this.#series.get(id)?.at(-1)?.row[index] ?? null;
  }

  /**
   * The course of one column as lines of [time, value]; a line ends where there was no value or no connection. A value
   * holds until the next one, so a slope is drawn only over the last slot before a change.
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
      const until = points[i + 1]?.at ?? this.#lostAt ?? now;
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
