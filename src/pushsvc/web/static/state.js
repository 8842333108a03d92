/**
 * What a client of a statistics stream knows: a Map of rows by key and field.
 *
 * A row is the array that the server sent, its first two elements being key (null: all keys together) and field
 * (null: the events themselves). After each frame the Map holds what the server holds.
 */

/** The Map's index of a row; JSON keeps null apart from the text "null". */
export function rowId(key, field) {
  return JSON.stringify([key, field]);
}

/** Replace everything by the rows of a `snapshot` frame. */
export function snapshot(rows, frame) {
  rows.clear();
  update(rows, frame);
}

/** Replace the rows that an `update` frame bears and forget those it lists as gone. */
export function update(rows, frame) {
  for (const [key, field] of frame.gone ?? []) rows.delete(rowId(key, field));
  for (const row of frame.data) rows.set(rowId(row[0], row[1]), row);
}

/** The frame of a topic with several groupings as if it had one: a key is named with what it is a key of. */
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

/** Forget everything: the server lost the position, a snapshot follows. */
export function reset(rows) {
  rows.clear();
}
