/** The dashboard: feeds fill the Map of rows of a view, which is drawn once per animation frame. */

import { Alerts } from "./alerts.js";
import { Chart, MOST_SERIES } from "./chart.js";
import { ServerClock } from "./clock.js";
import { Combobox } from "./combobox.js";
import { Components } from "./components.js";
import { fill, number, text } from "./dom.js";
import { EventsPanel } from "./events.js";
import { Feed, Live } from "./feed.js";
import {
  fieldName, formatClock, formatCount, formatFilling, formatMoment, keyName, statisticHeading, statisticName,
  statisticTitle, windowName,
} from "./format.js";
import { SPAN } from "./history.js";
import { Legend } from "./legend.js";
import { choices, isNumber, numericStatisticsOf, rank, statisticsOf } from "./ranking.js";
import { formatSelection, parseSelection } from "./selection.js";
import { SignIn } from "./signin.js";
import { rowId, snapshot, update } from "./state.js";
import { Table } from "./table.js";
import { drawTiles } from "./tiles.js";
import { Topics, describeTopics, findTopics } from "./topics.js";
import { View } from "./view.js";
import { copyCommand, drawWelcome } from "./welcome.js";

const SPANS = [30_000, 60_000, 120_000, SPAN];
const RANKING_INTERVAL = 1_000;
const PAUSE_AFTER = 30_000;
const MAX_CHOICES = 500;
const SWITCH_WAIT = 1_500;
const ZERO_BASED = new Set(["count", "rate", "sum", "std", "distinct"]);
const STATES = { open: "Live", connecting: "Connecting…", closed: "Disconnected" };

const find = (id) => document.getElementById(id);
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

const clock = new ServerClock();
const topics = new Topics();
let selection = parseSelection(location.hash);
let followed = { topic: null, window: null };
let view = new View(changed);
/** The view of another window of the topic, until it has all that is to be shown; or null. */
let next = null;
let nextTimer = 0;
let ranking = null;
let rankedAt = -Infinity;
let pending = 0;
let paused = false;
let pauseTimer = 0;
let rankingTimer = 0;

const live = new Live();
const topicFeed = new Feed(
  live,
  { topics: (data) => receiveTopics(() => topics.replace(data)), changes: (data) => receiveTopics(() => topics.change(data)) },
  (state) => {
    noteRefused(topicFeed, state);
    showConnection();
  },
);
const statsFeed = new Feed(
  live,
  {
    snapshot: (data) => receive(snapshot, data),
    update: (data) => receive(update, data),
    reset: () => {
      (next ?? view).reset();
      changed();
    },
  },
  (state) => {
    if (state !== "open") view.history.disconnect(clock.now());
    noteRefused(statsFeed, state);
    showConnection();
  },
);
const alertFeed = new Feed(live, { event: (event) => alerts.take(event), reset: () => alerts.refresh() });
const topicBox = new Combobox(find("topic-box"), {
  find: findTopics,
  describe: describeTopics,
  failed: "The server cannot list its topics now.",
  choose: (topic) => choose({ topic, key: null, compare: [], field: null, statistic: null, events: parseSelection("").events }),
});
const eventsPanel = new EventsPanel(live, (change, step) => (step ? choose : revise)({ events: { ...selection.events, ...change } }));
const signIn = new SignIn((session) => live.connect(session), restart);
const alerts = new Alerts(alertsChanged, chartKey);
const components = new Components();
const chart = new Chart(find("chart"));
const legend = new Legend(compare, removeKey);
const table = new Table(find("rows"), sortBy, chartKey);

// Frames

function receiveTopics(apply) {
  apply();
  follow();
  topicBox.refresh();
  changed();
}

function receive(apply, data) {
  const into = next ?? view;
  const first = into.frame === null;
  into.receive(apply, data, charted(), clock);
  if (into.drawable) into.chart(charted(), selection.statistic ?? "count", clock);
  if (into === next) {
    if (first) nextTimer = setTimeout(showNext, SWITCH_WAIT);
    changed();
  } else if (first || apply === snapshot) changed();
  else schedule();
}

/** The rows of the chart, that of the selected key first. */
function charted() {
  const { key, compare: others, field } = selection;
  return [key, ...others].map((each) => ({ id: rowId(each, field), key: each, field }));
}

/** Show the next view once it has the past of the chart, which the present one shows until then. */
function settle() {
  if (next?.frame && (!next.drawable || next.settled(charted()))) showNext();
}

function showNext() {
  clearTimeout(nextTimer);
  if (!next?.frame) return;
  view.close();
  view = next;
  next = null;
  changed();
}

// Selection

/** Follow the selected topic and window, or the most similar ones that exist. */
function follow() {
  if (topics.total === null || paused) return;
  if (alerts.streamed) alertFeed.open("events", "alerts", alerts.filters);
  else alertFeed.close();
  if (selection.topic === null && topics.busiest()) amend({ topic: topics.busiest().topic });
  if (selection.topic === null) return;
  const windows = topics.get(selection.topic)?.windows;
  if (windows === undefined) {
    ask(selection.topic);
    return;
  }
  if (windows?.length === 0) {
    clearFrames();
    followed = { topic: selection.topic, window: null };
    statsFeed.close();
    changed();
    return;
  }
  // Without an answer of the server the topic may have the selected window.
  const wanted = windows === null || windows.includes(selection.window) ? selection.window : windows[0];
  const current = followed.window ?? (next ?? view).frame?.window ?? null;
  const same = followed.topic === selection.topic && (wanted === null || wanted === current);
  if (same && statsFeed.followed) return;
  if (!same && followed.topic === selection.topic && drawable()) switchView();
  else if (!same) clearFrames();
  followed = { topic: selection.topic, window: wanted };
  statsFeed.open("stats", selection.topic, wanted === null ? {} : { window: wanted });
}

/** Ask for a topic that is not among the known ones, then go on. */
async function ask(topic) {
  if (!(await topics.ask(topic))) return;
  follow();
  changed();
}

function clearFrames() {
  dropNext();
  view.close();
  view = new View(changed);
  ranking = null;
}

/** Begin a view of another window; what is shown stays until it is complete. */
function switchView() {
  dropNext();
  next = new View(changed);
}

function dropNext() {
  clearTimeout(nextTimer);
  next?.close();
  next = null;
}

/** Apply a choice of the visitor. The browser's Back button returns to the choice before. */
function choose(change) {
  const before = location.hash;
  selection = withValidStatistic({ ...selection, ...change });
  if (formatSelection(selection) !== before) window.history.pushState(null, "", formatSelection(selection));
  selectionChanged();
}

/** Apply a choice of the page itself. */
function amend(change) {
  selection = { ...selection, ...change };
  window.history.replaceState(null, "", formatSelection(selection));
}

/** Apply a choice that is still being typed. */
function revise(change) {
  amend(change);
  selectionChanged();
}

function selectionChanged() {
  follow();
  const shown = next ?? view;
  if (shown.drawable) shown.chart(charted(), selection.statistic ?? "count", clock);
  changed();
}

/** Chart a key and, for a click on a number, its statistic. */
function chartKey(key, name = null) {
  const others = selection.compare.filter((other) => other !== key);
  choose({ key, compare: others, ...(name && { statistic: name }) });
}

function compare(key) {
  choose({ compare: [...selection.compare, key].slice(0, MOST_SERIES - 1) });
}

function removeKey(key) {
  const [first, ...others] = charted().map((row) => row.key).filter((each) => each !== key);
  choose({ key: first, compare: others });
}

/** What the alerts are has changed, or whether their events can be streamed. */
function alertsChanged() {
  follow();
  changed();
}

/** The selection with a statistic that its field has: events have only count and rate. */
function withValidStatistic(chosen) {
  if (!drawable() || chosen.statistic === null) return chosen;
  const exists = numericStatisticsOf(view.frame.columns, chosen.field).some(([name]) => name === chosen.statistic);
  return exists ? chosen : { ...chosen, statistic: "count" };
}

function sortBy(column) {
  const descending = selection.sort === column ? !selection.descending : column !== "key";
  choose({ sort: column, descending });
}

// Scheduling

function changed() {
  rankedAt = -Infinity;
  schedule();
}

function schedule() {
  pending ||= requestAnimationFrame(draw);
}

function draw() {
  pending = 0;
  settle();
  drawWaiting();
  if (drawable()) {
    updateRanking();
    drawControls();
    drawTotals();
    drawChart();
    drawTable();
    drawFooter();
  }
  topicBox.set(selection.topic);
  showConnection();
}

/** Sort the rows and list the choices, at most once a second: rows that move more often cannot be read. */
function updateRanking() {
  const time = performance.now();
  clearTimeout(rankingTimer);
  if (ranking !== null && time - rankedAt < RANKING_INTERVAL) {
    rankingTimer = setTimeout(schedule, RANKING_INTERVAL - (time - rankedAt));
    return;
  }
  rankedAt = time;
  const { fields, keys } = choices(view.rows);
  if (selection.statistic === null && fields.length > 0) {
    amend(firstChoice(fields));
  }
  const { field, sort, descending } = selection;
  const index = sort === "key" ? 0 : numericStatisticsOf(view.frame.columns, field).find(([name]) => name === sort)?.[1];
  const ranked = rank(view.rows, field, index ?? 2, index === undefined || descending, find("filter").value);
  ranking = { fields, keys, sort: index === undefined ? "count" : sort, ...ranked };
}

/** The first field with numbers and their mean; for fields of text the count. */
function firstChoice(fields) {
  const { columns } = view.frame;
  const mean = columns.indexOf("mean");
  const field = fields.find((name) => (view.row(null, name)[mean] ?? null) !== null);
  const text = field === undefined && (mean < 0 || columns.some((name) => !isNumber(name) || name === "distinct"));
  return { field: field ?? fields[0], statistic: text ? "count" : "mean" };
}

// Drawing

function statistic() {
  return withValidStatistic(selection).statistic ?? "count";
}

function drawable() {
  return view.drawable;
}

function hasEvents() {
  const { frame } = view;
  return frame !== null && frame.exists !== false && frame.offset > 0;
}

function drawWaiting() {
  const { topic } = selection;
  const known = topics.get(topic)?.exists ?? false;
  const waiting = topics.total !== null && !hasEvents() && (topic === null || view.frame !== null || !known);
  find("welcome").hidden = !waiting;
  find("controls").hidden = waiting && topic === null;
  const eventsOnly = known && topics.get(topic).windows?.length === 0;
  find("events-only").hidden = !eventsOnly;
  if (waiting) drawWelcome(topic);
  find("events").hidden = waiting || topic === null;
  eventsPanel.show(find("events").hidden ? null : topic, selection.events);
  alerts.show(topic);
  alerts.draw();
  components.show(topic);
  if (hasEvents()) find("live").hidden = false;
  else if (waiting || eventsOnly) find("live").hidden = true;
  document.title = topic === null ? "pushsvc" : `${topic} · pushsvc`;
}

function drawControls() {
  const { frame } = view;
  const windows = topics.get(selection.topic)?.windows ?? [frame.window];
  fill(find("window"), windows.map((name) => [name, windowName(name)]), next ? followed.window : frame.window);
  find("live").ariaBusy = String(next !== null);
  fill(find("key"), [choice(null, keyName), ...listed(ranking.keys, selection.key, keyName)], JSON.stringify(selection.key));
  const fields = listed(ranking.fields, selection.field, fieldName);
  fill(find("field"), [choice(null, fieldName), ...fields], JSON.stringify(selection.field));
  const statistics = numericStatisticsOf(frame.columns, selection.field).map(([name]) => [name, statisticName(name)]);
  fill(find("statistic"), statistics, statistic());
}

/** At most MAX_CHOICES options as [value, label], the chosen one included. */
function listed(names, chosen, label) {
  const some = names.slice(0, MAX_CHOICES);
  if (chosen !== null && !some.includes(chosen)) some.push(chosen);
  return some.map((name) => (label ? choice(name, label) : [name, name]));
}

/** An option whose value is JSON, because null must differ from every text. */
function choice(value, label) {
  return [JSON.stringify(value), label(value)];
}

function drawTotals() {
  const { frame } = view;
  const events = view.row(null, null);
  const field = selection.field ?? ranking.fields[0] ?? null;
  const totals = view.row(null, field);
  const of = (row, name) => row[frame.columns.indexOf(name)];
  const period = frame.window.startsWith("last ") ? "the window" : windowName(frame.window);
  const tiles = [
    ["count", `Events in ${period}`, of(events, "count")],
    ["rate", "Events per second", of(events, "rate"), filling()],
    ["keys", `Keys in ${period}`, ranking.keys.length],
  ];
  if (field !== null) tiles.push(["field-count", `Events with ${fieldName(field)}`, of(totals, "count")]);
  for (const name of field === null ? [] : ["mean", "min", "max"]) {
    tiles.push([name, `${statisticHeading(name)} ${fieldName(field)}`, of(totals, name)]);
  }
  drawTiles(find("tiles"), tiles);
}

/** How much of the window has passed since the topic began, as text; empty once it is full. */
function filling() {
  const { frame } = view;
  const [from, to, since] = [frame.from, frame.to, frame.since].map((time) => Date.parse(time));
  // On an event clock the window may lie years before the topic's beginning.
  if (!(from < since && since <= to)) return "";
  const passed = Math.max(to, clock.now()) - since;
  return passed < to - from ? formatFilling(passed, to - from) : "";
}

function drawChart() {
  const { frame, history } = view;
  const name = statistic();
  const index = frame.columns.indexOf(name);
  const time = clock.now();
  const rows = charted();
  const series = rows.map(({ id, key }) => ({ key, lines: history.lines(id, index, time), last: history.last(id, index) }));
  const [{ last }] = series;
  text(find("chart-title"), statisticTitle(name, selection.field));
  const note = name === "rate" ? filling() : "";
  const rolling = `rolling window of ${windowName(frame.window)}${note && ` (${note})`}`;
  const period = frame.window === "all" ? "since the topic began" : rolling;
  text(find("chart-subtitle"), `${rows.map(({ key }) => keyName(key)).join(", ")} · ${period}`);
  number(find("current"), last, name);
  find("chart").dataset.last = last ?? "";
  find("timeline").hidden = selection.key === null;
  const keys = rows.map(({ key }) => key);
  const others = ranking.keys.filter((key) => !keys.includes(key)).slice(0, MAX_CHOICES);
  legend.draw(series, others.map((key) => choice(key, keyName)), name);
  chart.draw({
    series, column: name, now: time, span: span(age(time)),
    zero: ZERO_BASED.has(name),
    empty: `No events in the last ${windowName(frame.window)}`,
    marks: alerts.marks(keys),
  });
}

/** How far back the chart reaches, ms. */
function age(time) {
  const begins = charted().map(({ id }) => view.history.begin(id) ?? time);
  return time - Math.min(...begins);
}

function span(age) {
  return SPANS.find((candidate) => age < candidate) ?? SPANS.at(-1);
}

function drawTable() {
  const { frame } = view;
  const { key, field, descending } = selection;
  const columns = statisticsOf(frame.columns, field);
  // The table always has the charted row.
  const keys = ranking.ranked.includes(key) ? [null, ...ranking.ranked] : [...new Set([null, key]), ...ranking.ranked];
  const counted = field === null ? "Events" : `Events with ${fieldName(field)}`;
  text(find("rows-title"), `${fieldName(field)} by key`);
  table.draw({
    caption: `${counted} in the window of ${windowName(frame.window)}, by key`,
    columns, field, descending,
    rows: keys.map((each) => view.row(each, field)),
    selected: key,
    statistic: statistic(),
    sort: ranking.sort,
    scale: ranking.scale,
    approximate: frame.columns.indexOf("approximate"),
  });
  const more = ranking.matching - ranking.ranked.length;
  find("more").hidden = more === 0 && ranking.matching > 0;
  text(find("more"), more ? `${formatCount(more)} more keys: use the search above.` : nothingFound());
}

function nothingFound() {
  const search = find("filter").value;
  return search ? `No key contains “${search}”.` : `No key had an event in the last ${windowName(view.frame.window)}.`;
}

function drawFooter() {
  const { frame } = view;
  text(find("offset"), String(frame.offset));
  const ends = frame.to === null ? [] : [frame.from, frame.to].map((time) => formatClock(Date.parse(time)));
  text(find("interval"), ends.join(" – "));
  text(find("since"), formatMoment(frame.since));
  const address = `v1/topics/${encodeURIComponent(frame.topic)}/stats?window=${encodeURIComponent(frame.window)}`;
  find("json").href = `${address}&format=json`;
  find("csv").href = `${address}&format=csv`;
  Object.assign(find("live").dataset, { topic: frame.topic, window: frame.window });
}

/** Show the state of the statistics, or of the list of topics while no topic is selected. */
function showConnection() {
  const { state } = statsFeed.followed ? statsFeed : topicFeed;
  const pill = find("connection");
  pill.dataset.state = state;
  const reconnecting = view.frame !== null && next === null && state === "connecting";
  text(pill, paused ? "Paused" : reconnecting ? "Reconnecting…" : STATES[state]);
  find("live").classList.toggle("stale", state !== "open" && next === null);
}

// Session

/** A feed that is followed and yet closed was refused: perhaps for want of a token. */
function noteRefused(feed, state) {
  if (state === "closed" && feed.followed) signIn.check(true);
}

/** Forget everything that was shown, and begin with what the visitor may see now. */
function restart() {
  live.disconnect();
  closeFeeds();
  clearFrames();
  topics.replace({ topics: [], total: null });
  followed = { topic: null, window: null };
  alerts.show(null);
  components.restart();
  find("live").hidden = true;
  eventsPanel.show(null, selection.events);
  resume();
  if (document.hidden) onVisibilityChange();
}

// Page lifecycle

/** Let the server do nothing for a hidden tab. */
function pause() {
  paused = true;
  closeFeeds();
  eventsPanel.suspend();
}

function closeFeeds() {
  for (const feed of [topicFeed, statsFeed, alertFeed]) feed.close();
}

function resume() {
  clearTimeout(pauseTimer);
  paused = false;
  topicFeed.open("topics", { changes: 1 });
  follow();
  eventsPanel.resume();
  alerts.refresh();
  components.refresh();
  schedule();
}

/** A hidden tab closes the list of topics at once and the statistics after PAUSE_AFTER. */
function onVisibilityChange() {
  if (!document.hidden) {
    resume();
    return;
  }
  topicFeed.close();
  clearTimeout(pauseTimer);
  pauseTimer = setTimeout(pause, PAUSE_AFTER);
}

function animate() {
  if (drawable() && statsFeed.state === "open" && !document.hidden) schedule();
  setTimeout(animate, reducedMotion.matches ? 1_000 : Math.min(500, Math.max(40, chart.frameInterval(span(age(clock.now()))))));
}

function listen() {
  find("window").addEventListener("change", (event) => choose({ window: event.target.value }));
  find("key").addEventListener("change", (event) => chartKey(JSON.parse(event.target.value)));
  find("field").addEventListener("change", (event) => {
    choose({ field: JSON.parse(event.target.value), statistic: statistic() });
  });
  find("statistic").addEventListener("change", (event) => choose({ statistic: event.target.value }));
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("filter").addEventListener("input", changed);
  find("copy").addEventListener("click", copyCommand);
  find("timeline").addEventListener("click", () => {
    choose({ events: { type: null, key: selection.key, text: null } });
    find("events").scrollIntoView({ behavior: reducedMotion.matches ? "auto" : "smooth" });
  });
  window.addEventListener("hashchange", () => {
    selection = parseSelection(location.hash);
    selectionChanged();
  });
  window.addEventListener("pagehide", pause);
  window.addEventListener("pageshow", resume);
  document.addEventListener("visibilitychange", onVisibilityChange);
}

listen();
resume();
signIn.check(false);
if (document.hidden) pauseTimer = setTimeout(pause, PAUSE_AFTER);
animate();
