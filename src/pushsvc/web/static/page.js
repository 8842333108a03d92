/** The dashboard: two streams in, one Map of rows, drawn once per animation frame. */

import { Chart } from "./chart.js";
import { ServerClock } from "./clock.js";
import { fill, text } from "./dom.js";
import {
  fieldName, formatClock, formatCount, formatMoment, formatValue, keyName, statisticHeading, statisticName, statisticTitle,
  windowName,
} from "./format.js";
import { History, SPAN } from "./history.js";
import { formatSelection, parseSelection } from "./selection.js";
import { grouped, reset, rowId, snapshot, update } from "./state.js";
import { Stream } from "./stream.js";
import { choices, isNumber, numbersOf, rank, statisticsOf, zeroRow } from "./survey.js";
import { Table } from "./table.js";
import { drawTiles } from "./tiles.js";
import { copyCommand, drawWelcome } from "./welcome.js";

const SPANS = [30_000, 60_000, 120_000, SPAN];
const SURVEY_INTERVAL = 1_000;
const PAUSE_AFTER = 30_000;
const MOST_CHOICES = 500;
const ZERO_BASED = new Set(["count", "rate"]);
const STATES = { open: "Live", connecting: "Connecting…", closed: "Disconnected" };

const find = (id) => document.getElementById(id);
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

const rows = new Map();
const history = new History();
const clock = new ServerClock();
let selection = parseSelection(location.hash);
let topics = null;
let followed = { topic: null, window: null };
let frame = null;
let found = null;
let surveyed = -Infinity;
let pending = 0;
let paused = false;
let pauseTimer = 0;
let surveyTimer = 0;

const topicStream = new Stream({ topics: receiveTopics }, showConnection);
const statsStream = new Stream(
  {
    snapshot: (data) => receive(snapshot, grouped(data)),
    update: (data) => receive(update, grouped(data)),
    reset: () => {
      reset(rows);
      history.clear();
      changed();
    },
  },
  (state) => {
    if (state !== "open") history.lose(clock.now());
    showConnection();
  },
);
const chart = new Chart(find("chart"));
const table = new Table(find("rows"), sortBy, (key, statistic) => choose(statistic ? { key, statistic } : { key }));

// What arrives

function receiveTopics(data) {
  topics = data.topics;
  follow();
  changed();
}

function receive(apply, data) {
  apply(rows, data);
  clock.hear(data.at ?? Date.now());
  const { newest } = clock;
  history.regain(newest);
  const selected = rowId(selection.key, selection.field);
  for (const row of data.data) {
    const id = rowId(row[0], row[1]);
    history.record(newest, id, row, row[0] === null || id === selected);
  }
  history.retain((id) => rows.has(id) || id === selected);
  if (!rows.has(selected) && data.since !== null) history.record(newest, selected, zeroRow(data.columns, selection.key, selection.field), true);
  const first = frame === null;
  frame = { ...data, data: null, gone: null };
  if (first || apply === snapshot) changed();
  else schedule();
}

// What to follow

/** Follow the chosen topic and window, or what is nearest to the choice. */
function follow() {
  if (topics === null || paused) return;
  if (selection.topic === null && topics.length > 0) {
    const busiest = topics.reduce((most, topic) => (topic.last_offset > most.last_offset ? topic : most));
    amend({ topic: busiest.topic });
  }
  if (selection.topic === null) return;
  const windows = topics.find(({ topic }) => topic === selection.topic)?.windows ?? [];
  // A topic that is not listed yet may well have the window that was asked for.
  const wanted = windows.length === 0 || windows.includes(selection.window) ? selection.window : windows[0];
  const current = followed.window ?? frame?.window ?? null;
  if (followed.topic === selection.topic && (wanted === null || wanted === current) && statsStream.followed) return;
  if (followed.topic !== selection.topic || wanted !== current) forget();
  followed = { topic: selection.topic, window: wanted };
  const query = wanted === null ? "" : `?window=${encodeURIComponent(wanted)}`;
  statsStream.open(`v1/topics/${encodeURIComponent(selection.topic)}/stats${query}`);
}

function forget() {
  reset(rows);
  history.clear();
  frame = null;
  found = null;
}

/** Take a visitor's choice, so that the browser's Back returns to the choice before. */
function choose(change) {
  const before = location.hash;
  selection = settled({ ...selection, ...change });
  if (formatSelection(selection) !== before) window.history.pushState(null, "", formatSelection(selection));
  selectionChanged();
}

/** Take a choice of the page's own. */
function amend(change) {
  selection = { ...selection, ...change };
  window.history.replaceState(null, "", formatSelection(selection));
}

function selectionChanged() {
  follow();
  if (drawable()) {
    const id = rowId(selection.key, selection.field);
    const row = rows.get(id) ?? zeroRow(frame.columns, selection.key, selection.field);
    history.record(clock.newest, id, row, true);
  }
  changed();
}

/** A choice whose statistic its field bears: of events there is only count and rate. */
function settled(chosen) {
  if (!drawable() || chosen.statistic === null) return chosen;
  const borne = numbersOf(frame.columns, chosen.field).some(([name]) => name === chosen.statistic);
  return borne ? chosen : { ...chosen, statistic: "count" };
}

function sortBy(column) {
  const descending = selection.sort === column ? !selection.descending : column !== "key";
  choose({ sort: column, descending });
}

// When to draw

function changed() {
  surveyed = -Infinity;
  schedule();
}

function schedule() {
  pending ||= requestAnimationFrame(draw);
}

function draw() {
  pending = 0;
  drawArrival();
  if (drawable()) {
    survey();
    drawControls();
    drawTotals();
    drawChart();
    drawTable();
    drawFooter();
  } else {
    drawTopics();
  }
  showConnection();
}

/** Sort and count what there is. At most once a second: a table that swaps its rows ten times a second is not read. */
function survey() {
  const time = performance.now();
  clearTimeout(surveyTimer);
  if (found !== null && time - surveyed < SURVEY_INTERVAL) {
    surveyTimer = setTimeout(schedule, SURVEY_INTERVAL - (time - surveyed));
    return;
  }
  surveyed = time;
  const { fields, keys } = choices(rows);
  if (selection.statistic === null && fields.length > 0) {
    amend(firstChoice(fields));
  }
  const { field, sort, descending } = selection;
  const index = sort === "key" ? 0 : numbersOf(frame.columns, field).find(([name]) => name === sort)?.[1];
  const ranked = rank(rows, field, index ?? 2, index === undefined || descending, find("filter").value);
  found = { fields, keys, sort: index === undefined ? "count" : sort, ...ranked };
}

/** The first field that has numbers, and their mean; a field of text has only its count. */
function firstChoice(fields) {
  const mean = frame.columns.indexOf("mean");
  const field = fields.find((name) => (rowOf(null, name)[mean] ?? null) !== null);
  const text = field === undefined && (mean < 0 || frame.columns.some((name) => !isNumber(name) || name === "distinct"));
  return { field: field ?? fields[0], statistic: text ? "count" : "mean" };
}

// What is drawn

function statistic() {
  return settled(selection).statistic ?? "count";
}

function rowOf(key, field) {
  return rows.get(rowId(key, field)) ?? zeroRow(frame.columns, key, field);
}

/** The frame of a topic that does not exist yet has no beginning. */
function drawable() {
  return frame !== null && frame.since !== null;
}

function hasEvents() {
  return frame !== null && frame.exists !== false && frame.offset > 0;
}

function drawArrival() {
  const { topic } = selection;
  const known = topics?.some((listed) => listed.topic === topic) ?? false;
  const waiting = topics !== null && !hasEvents() && (topic === null || frame !== null || !known);
  find("welcome").hidden = !waiting;
  find("controls").hidden = waiting && topic === null;
  if (waiting) drawWelcome(topic);
  if (hasEvents()) find("live").hidden = false;
  else if (waiting) find("live").hidden = true;
  document.title = topic === null ? "pushsvc" : `${topic} · pushsvc`;
}

function drawTopics() {
  const names = (topics ?? []).map(({ topic }) => topic);
  fill(find("topic"), listed(names, selection.topic), selection.topic);
}

function drawControls() {
  drawTopics();
  const windows = topics?.find(({ topic }) => topic === selection.topic)?.windows ?? [frame.window];
  fill(find("window"), windows.map((name) => [name, windowName(name)]), frame.window);
  fill(find("key"), [choice(null, keyName), ...listed(found.keys, selection.key, keyName)], JSON.stringify(selection.key));
  const fields = listed(found.fields, selection.field, fieldName);
  fill(find("field"), [choice(null, fieldName), ...fields], JSON.stringify(selection.field));
  const statistics = numbersOf(frame.columns, selection.field).map(([name]) => [name, statisticName(name)]);
  fill(find("statistic"), statistics, statistic());
}

/** Choices as [value, label], not too many, with the chosen one among them. */
function listed(names, chosen, label) {
  const some = names.slice(0, MOST_CHOICES);
  if (chosen !== null && !some.includes(chosen)) some.push(chosen);
  return some.map((name) => (label ? choice(name, label) : [name, name]));
}

/** As JSON, null is apart from every text. */
function choice(value, label) {
  return [JSON.stringify(value), label(value)];
}

function drawTotals() {
  const events = rowOf(null, null);
  const field = selection.field ?? found.fields[0] ?? null;
  const totals = rowOf(null, field);
  const columns = frame.columns;
  const tiles = [
    ["count", frame.window.startsWith("last ") ? "Events" : `Events in ${windowName(frame.window)}`, events[columns.indexOf("count")]],
    ["rate", "Events per second", events[columns.indexOf("rate")]],
    ["keys", "Keys", found.keys.length],
  ];
  for (const name of field === null ? [] : ["mean", "min", "max"]) {
    tiles.push([name, `${statisticHeading(name)} ${fieldName(field)}`, totals[columns.indexOf(name)]]);
  }
  drawTiles(find("tiles"), tiles);
}

function drawChart() {
  const name = statistic();
  const id = rowId(selection.key, selection.field);
  const index = frame.columns.indexOf(name);
  const time = clock.now();
  const age = time - (history.begin(id) ?? time);
  const last = history.last(id, index);
  text(find("chart-title"), statisticTitle(name, selection.field));
  text(find("chart-subtitle"), `${keyName(selection.key)} · rolling window of ${windowName(frame.window)}`);
  text(find("current"), formatValue(last, name));
  find("chart").dataset.last = last ?? "";
  chart.draw({
    lines: history.lines(id, index, time),
    last, column: name, now: time, span: span(age),
    zero: ZERO_BASED.has(name),
    empty: `No events in the last ${windowName(frame.window)}`,
  });
}

function span(age) {
  return SPANS.find((candidate) => age < candidate) ?? SPANS.at(-1);
}

function drawTable() {
  const { key, field, descending } = selection;
  const columns = statisticsOf(frame.columns, field);
  // The charted row is always there, so that the chart's number can be found in the table.
  const keys = found.ranked.includes(key) ? [null, ...found.ranked] : [...new Set([null, key]), ...found.ranked];
  table.draw({
    columns, field, descending,
    rows: keys.map((each) => rowOf(each, field)),
    selected: key,
    statistic: statistic(),
    sort: found.sort,
    scale: found.scale,
    near: frame.columns.indexOf("approximate"),
  });
  const more = found.matching - found.ranked.length;
  find("more").hidden = more === 0 && found.matching > 0;
  text(find("more"), more ? `${formatCount(more)} more; find one by its name above.` : nothingFound());
}

function nothingFound() {
  const search = find("filter").value;
  return search ? `No key contains “${search}”.` : `No key had an event in the last ${windowName(frame.window)}.`;
}

function drawFooter() {
  text(find("offset"), String(frame.offset));
  const ends = frame.to === null ? [] : [frame.from, frame.to].map((time) => formatClock(Date.parse(time)));
  text(find("interval"), ends.join(" – "));
  text(find("since"), formatMoment(frame.since));
  const address = `v1/topics/${encodeURIComponent(frame.topic)}/stats?window=${encodeURIComponent(frame.window)}`;
  find("json").href = `${address}&format=json`;
  find("csv").href = `${address}&format=csv`;
  Object.assign(find("live").dataset, { topic: frame.topic, window: frame.window });
}

/** The state of the stream that feeds the numbers; the list's own where no topic is chosen yet. */
function showConnection() {
  const { state } = statsStream.followed ? statsStream : topicStream;
  const pill = find("connection");
  pill.dataset.state = state;
  const again = frame !== null && state === "connecting";
  text(pill, paused ? "Paused" : again ? "Reconnecting…" : STATES[state]);
  find("live").classList.toggle("stale", state !== "open");
}

// The page's life

/** A browser opens six connections to an HTTP/1.1 server for all its tabs: one that nobody sees gives its two back. */
function pause() {
  paused = true;
  topicStream.close();
  statsStream.close();
}

function resume() {
  clearTimeout(pauseTimer);
  paused = false;
  topicStream.open("v1/topics");
  follow();
  schedule();
}

/** Follow the visitor's attention: a hidden tab does without the list at once, without the numbers after a while. */
function attend() {
  if (!document.hidden) {
    resume();
    return;
  }
  topicStream.close();
  clearTimeout(pauseTimer);
  pauseTimer = setTimeout(pause, PAUSE_AFTER);
}

function move() {
  const time = clock.now();
  const age = time - (history.begin(rowId(selection.key, selection.field)) ?? time);
  if (drawable() && statsStream.state === "open" && !document.hidden) schedule();
  setTimeout(move, stillness.matches ? 1_000 : Math.min(500, Math.max(40, chart.pace(span(age)))));
}

function listen() {
  find("topic").addEventListener("change", (event) => {
    choose({ topic: event.target.value, key: null, field: null, statistic: null });
  });
  find("window").addEventListener("change", (event) => choose({ window: event.target.value }));
  find("key").addEventListener("change", (event) => choose({ key: JSON.parse(event.target.value) }));
  find("field").addEventListener("change", (event) => {
    choose({ field: JSON.parse(event.target.value), statistic: statistic() });
  });
  find("statistic").addEventListener("change", (event) => choose({ statistic: event.target.value }));
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("filter").addEventListener("input", changed);
  find("copy").addEventListener("click", copyCommand);
  window.addEventListener("hashchange", () => {
    selection = parseSelection(location.hash);
    selectionChanged();
  });
  window.addEventListener("pagehide", pause);
  window.addEventListener("pageshow", resume);
  document.addEventListener("visibilitychange", attend);
}

listen();
resume();
if (document.hidden) pauseTimer = setTimeout(pause, PAUSE_AFTER);
move();
