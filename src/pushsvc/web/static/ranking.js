/** Choices and sorted keys from the Map of rows. No DOM. */

export const SHOWN_ROWS = 100;
const COUNT = 2;
const ZERO = new Set(["count", "rate", "sum"]);
const OF_EVENTS = new Set(["count", "rate"]);

/** The statistics of rows of `field` as [name, index in a row]. Rows of events have only count and rate. */
export function statisticsOf(columns, field) {
  return columns
    .map((name, index) => [name, index])
    .filter(([name], index) => index >= COUNT && name !== "approximate" && (field !== null || OF_EVENTS.has(name)));
}

/** Those of them that are numbers, which can be charted and sorted. */
export function numericStatisticsOf(columns, field) {
  return statisticsOf(columns, field).filter(([name]) => isNumber(name));
}

/** Whether a column has numbers; others have values of any kind. */
export function isNumber(name) {
  return !/^(first|last|top\d*)$/.test(name);
}

/** The row that the server would send for a key without events in the window. */
export function zeroRow(columns, key, field) {
  return columns.map((name, index) => {
    if (index < COUNT) return index === 0 ? key : field;
    return ZERO.has(name) && (field !== null || OF_EVENTS.has(name)) ? 0 : null;
  });
}

/** The fields that have a totals row, in the server's order, and the keys that have events in the window. */
export function choices(rows) {
  const fields = [];
  const keys = [];
  for (const [key, field, count] of rows.values()) {
    if (key === null && field !== null) fields.push(field);
    else if (key !== null && field === null && count > 0) keys.push(key);
  }
  return { fields, keys: keys.sort() };
}

/**
 * Sort the keys of one field by a column (its index in a row, 0 for the key itself); rows without a value come last.
 *
 * @returns {{ranked: string[], matching: number, scale: number}} at most SHOWN_ROWS keys, how many keys contain `search`,
 *   and the greatest absolute value of the column among those
 */
export function rank(rows, field, index, descending, search) {
  const wanted = search.toLowerCase();
  const found = [];
  for (const row of rows.values()) {
    if (row[0] !== null && row[1] === field && row[0].toLowerCase().includes(wanted)) found.push(row);
  }
  found.sort((a, b) => compare(a[index], b[index], descending) || compare(a[0], b[0], false));
  const scale = found.reduce((most, row) => Math.max(most, Math.abs(index ? row[index] ?? 0 : 0)), 0);
  return { ranked: found.slice(0, SHOWN_ROWS).map((row) => row[0]), matching: found.length, scale };
}

function compare(a, b, descending) {
  if (a === b) return 0;
  if (a === null) return 1;
  if (b === null) return -1;
  return a < b !== descending ? -1 : 1;
}
