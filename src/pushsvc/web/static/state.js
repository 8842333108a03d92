/**
 * The state of a client of a statistics stream: a Map of rows by key and field.
 *
 * A row is the array that the server sent. Its first two elements are key (null: all keys together) and field (null:
 * the events themselves). After each frame the Map equals the rows of the server.
 */

/** The Map key of a row. JSON distinguishes null from the text "null". */
export function rowId(key, field) {
  return JSON.stringify([key, field]);
}

/** Replace everything by the rows of a `snapshot` frame. */
export function snapshot(rows, frame) {
  rows.clear();
  update(rows, frame);
}

/** Replace the rows of an `update` frame and delete those it lists as gone. */
export function update(rows, frame) {
  for (const [key, field] of frame.gone ?? []) rows.delete(rowId(key, field));
  for (const row of frame.data) rows.set(rowId(row[0], row[1]), row);
}

/** The frame of a topic with several groupings as if it had one: each key is prefixed with its grouping. */
export function grouped(frame) {
  const by = frame.columns?.indexOf("by") ?? -1;
  if (by < 0) return frame;
  const named = (key, grouping) => (grouping === null ? key : `${grouping}: ${key}`);
  return {
    ...frame,
    columns: frame.columns.filter((name) => name !== "by"),
    data: frame.data.map((row) => [named(row[0], row[by]), ...row.slice(1, by), ...row.slice(by + 1)]),
    gone: (frame.gone ?? []).map(([key, field, grouping]) => [named(key, grouping), field]),
  };
}

/** Delete all rows: the server lost the position, a snapshot follows. */
export function reset(rows) {
  rows.clear();
}
