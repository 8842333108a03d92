/** Numbers, times and names as text for people. */

const numbers = (options) => new Intl.NumberFormat(undefined, { signDisplay: "negative", ...options });
const whole = numbers({ maximumFractionDigits: 0 });
const fixed = numbers({ minimumFractionDigits: 2, maximumFractionDigits: 2 });
const small = numbers({ maximumSignificantDigits: 3 });
const compact = numbers({ notation: "compact", minimumSignificantDigits: 4, maximumSignificantDigits: 4 });
const short = numbers({ notation: "compact", maximumSignificantDigits: 4 });
const precise = numbers({ maximumSignificantDigits: 15 });
// One format of the time everywhere. `hour12: false` would show midnight as 24:00:00.
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const clock = new Intl.DateTimeFormat(undefined, CLOCK);
const moment = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", ...CLOCK });

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const FRACTIONAL = new Set(["rate", "mean", "std"]);
const NAMES = {
  count: "Count", rate: "Per second", sum: "Sum", mean: "Mean", min: "Minimum", max: "Maximum", std: "Std deviation",
  p50: "Median", distinct: "Distinct values", first: "First value", last: "Last value",
};
const HEADINGS = {
  rate: "Per s", min: "Min", max: "Max", std: "Std dev", p50: "Median", distinct: "Distinct", first: "First", last: "Last",
};
const UNITS = [["s", 1_000], ["min", 60_000], ["h", 3_600_000]];
const SHOWN_VALUES = 3;
const OTHER = "__other__";

/**
 * A statistic's value in about ten characters at most; "–" without a value. Above a million it is abbreviated:
 * `formatFull` has the rest.
 */
export function formatValue(value, column) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return formatTop(value);
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-4)) return formatPower(value, fixed);
  if (isAbbreviated(value)) return compact.format(value);
  if (Number.isInteger(value) && !FRACTIONAL.has(column)) return whole.format(value);
  return size > 0 && size < 0.1 ? small.format(value) : fixed.format(value);
}

/** Whether `formatValue` writes a number with a unit such as M or a power of ten. */
export function isAbbreviated(value) {
  const size = typeof value === "number" ? Math.abs(value) : 0;
  return size >= 999_999.5 || (size > 0 && size < 1e-4);
}

/** A value with all its digits. */
export function formatFull(value) {
  if (Array.isArray(value)) return value.map(counted).join(", ") || "–";
  if (typeof value !== "number") return String(value ?? "–");
  const size = Math.abs(value);
  if (size >= 1e21 || (size > 0 && size < 1e-15)) return String(value);
  return Number.isInteger(value) ? whole.format(value) : precise.format(value);
}

/** A number such as 2.25×10¹⁷, its factor in the given format. */
function formatPower(value, format) {
  const [factor, exponent] = value.toExponential(2).split("e");
  const raised = [...exponent.replace("+", "")].map((character) => SUPERSCRIPTS[character]).join("");
  return `${format.format(Number(factor))}×10${raised}`;
}

/** The first few of the most frequent values, each with its count. */
function formatTop(values) {
  const shown = values.slice(0, SHOWN_VALUES).map(counted);
  return values.length === 0 ? "–" : shown.join(", ") + (values.length > SHOWN_VALUES ? ", …" : "");
}

function counted([value, count]) {
  return `${value} (${whole.format(count)})`;
}

/** An axis label for a tick of the given step. */
export function formatTick(value, step) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e15 || step < 1e-6) return formatPower(value, small);
  if (size >= 10_000) return short.format(value);
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

/** The time of an RFC 3339 text, with its date unless that is today's. */
export function formatTime(text) {
  const time = new Date(text);
  return time.toDateString() === new Date().toDateString() ? clock.format(time) : formatMoment(text);
}

/** The time of an RFC 3339 text with milliseconds, with its date unless that is today's. */
export function formatInstant(text) {
  const time = new Date(text);
  const thousandths = `.${String(time.getMilliseconds()).padStart(3, "0")}`;
  return formatTime(text) + thousandths;
}

/** A duration in milliseconds such as "+350 ms", "+2.5 s", "+3 min"; "−" before what is negative. */
export function formatElapsed(milliseconds) {
  const size = Math.abs(milliseconds);
  const sign = milliseconds < 0 ? "−" : "+";
  if (size < 1_000) return `${sign}${Math.round(size)} ms`;
  if (size < 60_000) return `${sign}${(size / 1_000).toFixed(1)} s`;
  const [unit, length] = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000]].find(([, candidate]) => size >= candidate);
  return `${sign}${(size / length).toFixed(size < 10 * length ? 1 : 0)} ${unit}`;
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
  if (field === null) return column === "rate" ? "Events per second" : "Number of events";
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

/** What the name of a key does not say, or the whole name where it may be cut off. */
export function keyTitle(key) {
  return key === OTHER ? "Keys beyond the topic's max_keys, counted together" : key ?? "";
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
  if (name === "all") return "all time";
  return unit ? `${length} ${units[unit]}` : name;
}

/** "filling, 10 of 60 s" for a window of which only a part has passed, both in milliseconds. */
export function formatFilling(passed, length) {
  const [unit, size] = UNITS.find(([, size]) => length <= 120 * size) ?? UNITS.at(-1);
  return `filling, ${Math.floor(passed / size)} of ${Math.round(length / size)} ${unit}`;
}
