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

/** Forget everything: the server lost the position, a snapshot follows. */
export function reset(rows) {
  rows.clear();
}
