/** Numbers, times and names as text for people. */

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const fixed = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const small = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const FRACTIONAL = new Set(["rate", "mean", "std"]);
const NAMES = {
  count: "Count", rate: "Per second", sum: "Sum", mean: "Mean", min: "Minimum", max: "Maximum", std: "Std deviation",
  p50: "Median", distinct: "Distinct values", first: "First value", last: "Last value",
};
const HEADINGS = {
  rate: "Per s", min: "Min", max: "Max", std: "Std dev", p50: "Median", distinct: "Distinct", first: "First", last: "Last",
};
const SHOWN_VALUES = 3;
const OTHER = "__other__";

/** A statistic's value in about a dozen characters at most; "–" without a value. */
export function formatValue(value, column) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return formatTop(value);
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e12 || (size > 0 && size < 1e-4)) return value.toExponential(3);
  if (Number.isInteger(value) && !FRACTIONAL.has(column)) return whole.format(value);
  return size > 0 && size < 0.1 ? small.format(value) : fixed.format(value);
}

/** The first few of the most frequent values, each with its count. */
function formatTop(values) {
  const shown = values.slice(0, SHOWN_VALUES).map(([value, count]) => `${value} (${whole.format(count)})`);
  return values.length === 0 ? "–" : shown.join(", ") + (values.length > SHOWN_VALUES ? ", …" : "");
}

/** An axis label for a tick of the given step. */
export function formatTick(value, step) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e15 || step < 1e-6) return value.toExponential(1);
  if (size >= 10_000) return compact.format(value);
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

export function formatClock(milliseconds) {
  return clock.format(milliseconds);
}

/** Date and time of an RFC 3339 text; "–" for any other text. */
export function formatMoment(text) {
  const time = Date.parse(text);
  return Number.isNaN(time) ? "–" : moment.format(time);
}

export function formatCount(count) {
  return whole.format(count);
}

/** The full name of a statistic, for choices and titles. */
export function statisticName(column) {
  if (/^top\d*$/.test(column)) return "Most frequent";
  return NAMES[column] ?? (/^p\d+$/.test(column) ? `${column.slice(1)} % quantile` : column);
}

/** The title of a chart of a field's statistic. */
export function statisticTitle(column, field) {
  if (field === null) return column === "rate" ? "Events per second" : "Events";
  return column === "rate" ? `${fieldName(field)} per second` : `${statisticName(column)} of ${fieldName(field)}`;
}

/** The name of a statistic as the heading of a narrow column. */
export function statisticHeading(column) {
  return HEADINGS[column] ?? statisticName(column);
}

export function keyName(key) {
  if (key === null) return "All keys";
  if (key === OTHER) return "Other keys";
  return key.trim() === "" ? "(blank)" : key;
}

export function fieldName(field) {
  if (field === null) return "Events";
  return field.trim() === "" ? "(blank)" : field;
}

/** "1m" as "1 min", "last 1000" as "1,000 events"; any other name unchanged. */
export function windowName(name) {
  const [, events] = /^last (\d+)$/.exec(name) ?? [];
  if (events) return `${whole.format(events)} events`;
  const [, length, unit] = /^(\d+)([smhd])$/.exec(name) ?? [];
  const units = { s: "s", m: "min", h: "h", d: length === "1" ? "day" : "days" };
  return unit ? `${length} ${units[unit]}` : name;
}
