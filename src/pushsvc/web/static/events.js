/** The panel of events: a live tail with filters, each event as JSON, and the timeline of a key. */

import { text } from "./dom.js";
import { Feed } from "./feed.js";
import { formatCount, formatElapsed, formatInstant } from "./format.js";
import { lifeOf } from "./life.js";
import { element } from "./list.js";
import { drawStrip } from "./strip.js";
import { Tail, contains, corrected, dataOf, without } from "./tail.js";

const PAGE = 100;
const MOST_SHOWN = 2_000;
const DRAW_INTERVAL = 200;
const TYPING = 300;
const MOST_DATA = 12;
const MOST_TYPES = 50;
const EMPTY = { type: null, key: null, text: null };

const find = (id) => document.getElementById(id);

export class EventsPanel {
  #tail = new Tail();
  #feed;
  #onFilter;
  #topic = null;
  #filter = EMPTY;
  #inView = false;
  #suspended = false;
  /** The requests under way: of the newest events, and of older ones. */
  #requests = { last: null, before: null };
  /** The cursor of older events; undefined before the history answered, null at the first event. */
  #older = undefined;
  #problem = "";
  /** The events that a paused panel shows, or null. */
  #frozen = null;
  #shown = PAGE;
  #rows = new Map();
  #open = new Set();
  #types = new Set();
  #timer = 0;
  #typing = 0;
  #drawnAt = -Infinity;

  /**
   * @param {Live} live
   * @param {function(object, boolean): void} onFilter called with changes of `type`, `key` and `text` that the visitor
   *   made, and whether they are a step that the Back button should undo
   */
  constructor(live, onFilter) {
    this.#onFilter = onFilter;
    this.#feed = new Feed(
      live,
      {
        event: (event) => this.#arrive(event),
        reset: () => this.#restart(),
        corrected: (event) => this.#correct(event),
        deleted: ({ $offset }) => this.#remove($offset),
      },
      (state) => this.#connected(state),
    );
    // The server sends events only while they can be seen.
    new IntersectionObserver((entries) => {
      this.#inView = entries.at(-1).isIntersecting; // a busy page gets several at once, oldest first
      this.#follow();
    }, { rootMargin: "200px" }).observe(find("events"));
    find("events-pause").addEventListener("click", () => this.#pause(this.#frozen === null));
    find("events-older").addEventListener("click", () => this.#showOlder());
    find("events-clear").addEventListener("click", () => this.#onFilter(EMPTY, true));
    find("events-filter").addEventListener("submit", (event) => event.preventDefault());
    for (const name of ["type", "key", "text"]) {
      find(`events-${name}`).addEventListener("input", () => this.#type());
    }
    find("tail").tBodies[0].addEventListener("click", (event) => this.#click(event));
  }

  /** Show the events of a topic (null: none) that a filter {type, key, text} selects. */
  show(topic, filter) {
    const { type, key } = this.#filter;
    const same = topic === this.#topic && filter.type === type && filter.key === key;
    if (topic !== this.#topic) this.#types.clear();
    const searched = filter.text !== this.#filter.text;
    this.#topic = topic;
    this.#filter = { ...filter };
    for (const name of ["type", "key", "text"]) {
      const input = find(`events-${name}`);
      if (document.activeElement !== input || !this.#typing) input.value = filter[name] ?? "";
    }
    if (!same) this.#restart();
    else if (searched) this.#draw();
    if (topic === null) return;
    text(find("events-title"), filter.key === null ? "Events" : `Timeline of ${filter.key}`);
  }

  /** Ask for nothing, as a hidden tab. */
  suspend() {
    this.#suspended = true;
    this.#follow();
  }

  resume() {
    this.#suspended = false;
    this.#follow();
  }

  // Data

  #restart() {
    this.#feed.close();
    for (const request of Object.values(this.#requests)) request?.abort();
    this.#tail.clear();
    this.#older = undefined;
    this.#problem = "";
    this.#frozen = null;
    this.#shown = PAGE;
    this.#open.clear();
    this.#follow();
    this.#draw();
  }

  #follow() {
    const wanted = this.#topic !== null && this.#inView && !this.#suspended;
    if (wanted) this.#feed.open("events", this.#topic, Object.fromEntries(this.#query({})));
    else this.#feed.close();
  }

  #address() {
    return `v1/topics/${encodeURIComponent(this.#topic)}/events`;
  }

  #query(more) {
    const query = new URLSearchParams(more);
    for (const name of ["type", "key"]) {
      if (this.#filter[name] !== null) query.set(name, this.#filter[name]);
    }
    return query;
  }

  /** The feed begins with the present: what was before is read once it is open, so that none is missing between. */
  #connected(state) {
    if (state === "open") this.#read({ last: PAGE }, this.#tail.newest);
    else this.#schedule();
  }

  /** Read a page of the history. `known` is the offset of the newest event before the feed was opened. */
  async #read(page, known = null) {
    const kind = page.before ? "before" : "last";
    this.#requests[kind]?.abort();
    const request = new AbortController();
    this.#requests[kind] = request;
    try {
      const answer = await fetch(`${this.#address()}?${this.#query({ format: "json", ...page })}`, { signal: request.signal });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.detail ?? body.title);
      if (request.signal.aborted) return;
      this.#problem = "";
      const held = this.#frozen?.length;
      if (this.#frozen) this.#frozen = merged(this.#frozen, page.before ? body.events : []);
      // More events came while there was no connection than the page has: what was before cannot be joined to it.
      if (known !== null && body.prev && body.events.every(({ $offset }) => $offset > known)) {
        this.#tail.forget(known);
        this.#older = undefined;
      }
      this.#tail.merge(body.events, Boolean(page.before));
      // With `order=desc` the next page is older, with `last` the previous one.
      if (page.before || this.#older === undefined) this.#older = (page.before ? body.next : body.prev) ?? null;
      // A connection that was resumed may have brought what such a page has.
      if (page.before && this.#older && this.#frozen?.length === held) {
        this.#read({ ...page, before: this.#older });
        return;
      }
    } catch (error) {
      if (request.signal.aborted) return;
      this.#problem = `The events before cannot be read: ${error.message}`;
    }
    this.#draw();
  }

  #arrive(event) {
    this.#tail.push(event);
    this.#schedule();
  }

  #correct(event) {
    this.#tail.correct(event);
    this.#frozen &&= corrected(this.#frozen, event);
    this.#schedule();
  }

  #remove(offset) {
    this.#tail.remove(offset);
    this.#frozen &&= without(this.#frozen, offset);
    this.#schedule();
  }

  // What the visitor does

  #type() {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => {
      this.#typing = 0;
      const given = (name) => find(`events-${name}`).value || null;
      this.#onFilter({ type: given("type"), key: given("key"), text: given("text") }, false);
    }, TYPING);
  }

  #pause(paused) {
    this.#frozen = paused ? [...this.#tail.read()] : null;
    if (!paused) this.#shown = PAGE;
    this.#draw();
  }

  #showOlder() {
    this.#shown += PAGE;
    if (this.#frozen === null) this.#pause(true);
    if (this.#matching().length < this.#shown && this.#older) {
      this.#read({ limit: PAGE, order: "desc", before: this.#older });
    }
    this.#draw();
  }

  #click(event) {
    const row = event.target.closest("tr");
    const made = row && [...this.#rows.values()].find((candidate) => candidate.row === row);
    if (!made) return;
    if (event.target.closest(".key")) {
      this.#onFilter({ ...EMPTY, key: made.event.key }, true);
      find("events").scrollIntoView({ block: "nearest" });
      return;
    }
    const { $offset } = made.event;
    if (this.#open.delete($offset)) {
      this.#draw();
      return;
    }
    this.#open.add($offset);
    // New events would move the one that is being read.
    if (this.#frozen === null) this.#pause(true);
    else this.#draw();
  }

  // Drawing

  #schedule() {
    if (this.#timer) return;
    const wait = Math.max(0, DRAW_INTERVAL - (performance.now() - this.#drawnAt));
    this.#timer = setTimeout(() => requestAnimationFrame(() => this.#draw()), wait);
  }

  /** The events that the filter selects, oldest first. */
  #matching() {
    const part = this.#filter.text ?? "";
    const events = this.#frozen ?? this.#tail.read();
    return part === "" ? events : events.filter((event) => contains(event, part));
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#drawnAt = performance.now();
    if (this.#topic === null) return;
    const matching = this.#matching();
    const shown = matching.slice(-Math.min(this.#shown, MOST_SHOWN)).reverse();
    this.#drawRows(shown, matching.length > shown.length ? matching.at(-shown.length - 1) : null);
    this.#drawTypes(shown);
    this.#drawState(matching, shown);
    const isTimeline = this.#filter.key !== null;
    const hasStrip = isTimeline && shown.length > 1;
    find("tail").classList.toggle("timeline", isTimeline);
    find("events-strip").hidden = !hasStrip;
    if (hasStrip) drawStrip(find("events-strip"), shown.map(({ time }) => Date.parse(time)));
  }

  #drawState(matching, shown) {
    const { unread } = this.#tail;
    const paused = this.#frozen !== null;
    const filtered = Object.values(this.#filter).some((value) => value !== null);
    const button = find("events-pause");
    button.ariaPressed = String(paused);
    text(button, paused ? `Resume${unread ? ` · ${formatCount(unread)} new` : ""}` : "Pause");
    find("events-clear").hidden = !filtered;
    find("events-older").hidden = shown.length >= MOST_SHOWN || (matching.length <= shown.length && !this.#older);
    find("tail").hidden = shown.length === 0;
    text(find("events-none"), shown.length > 0 ? "" : this.#nothing(filtered));
    text(find("events-problem"), this.#problem);
    const count = `${formatCount(shown.length)} ${shown.length === 1 ? "event" : "events"}`;
    const states = { open: paused ? "paused" : "live", connecting: "connecting…", closed: "disconnected" };
    text(find("events-state"), `${count}, newest first · ${states[this.#feed.state]}`);
  }

  #nothing(filtered) {
    if (this.#older === undefined) return this.#problem ? "" : "Reading the newest events…";
    if (this.#filter.text !== null && this.#older) return `None of the newest events contains “${this.#filter.text}”. Older events may.`;
    return filtered ? "No event matches." : "No events yet.";
  }

  #drawTypes(shown) {
    const before = this.#types.size;
    for (const { type } of shown) {
      if (this.#types.size < MOST_TYPES) this.#types.add(type);
    }
    const list = find("events-types");
    if (this.#types.size === before && list.children.length === before) return;
    list.replaceChildren(...[...this.#types].sort().map((type) => new Option(type, type)));
  }

  #drawRows(shown, before) {
    const body = find("tail").tBodies[0];
    const wanted = new Map(shown.map((event) => [event.$offset, event]));
    for (const [offset, made] of this.#rows) {
      if (wanted.get(offset) === made.event) continue; // else it is gone, of another topic, or corrected
      made.row.remove();
      made.detail?.remove();
      this.#rows.delete(offset);
    }
    let next = body.firstChild;
    shown.forEach((event, i) => {
      const made = this.#made(event);
      if (made.row === next) next = next.nextSibling;
      else body.insertBefore(made.row, next);
      const previous = shown[i + 1] ?? before;
      const elapsed = previous ? Date.parse(event.time) - Date.parse(previous.time) : null;
      text(made.elapsed, elapsed === null ? "" : formatElapsed(elapsed));
      next = this.#drawDetail(made, body, next);
    });
  }

  #drawDetail(made, body, next) {
    const open = this.#open.has(made.event.$offset);
    made.button.ariaExpanded = String(open);
    made.row.classList.toggle("chosen", open);
    if (!open) {
      const after = next === made.detail && next !== null ? next.nextSibling : next;
      made.detail?.remove();
      made.detail = null;
      return after;
    }
    made.detail ??= detailRow(made.event, lifeOf(`${this.#address()}/$${made.event.$offset}`));
    if (made.detail === next) return next.nextSibling;
    body.insertBefore(made.detail, next);
    return next;
  }

  #made(event) {
    const known = this.#rows.get(event.$offset);
    if (known) return known;
    const made = { event, ...eventRow(event), detail: null };
    this.#rows.set(event.$offset, made);
    return made;
  }
}

function merged(events, older) {
  const known = new Set(events.map(({ $offset }) => $offset));
  return [...older.filter(({ $offset }) => !known.has($offset)), ...events].sort((a, b) => a.$offset - b.$offset);
}

function buttonOf(className, content) {
  const button = element("button", className, content);
  button.type = "button";
  return button;
}

function eventRow(event) {
  const row = element("tr", "", "");
  row.dataset.offset = event.$offset;
  const button = buttonOf("open", formatInstant(event.time));
  button.title = `${event.time}, offset ${event.$offset}`;
  const elapsed = element("td", "elapsed", "");
  const key = element("td", "of-key", "");
  if (event.key !== undefined && event.key !== null) {
    const shown = buttonOf("key", event.key);
    shown.title = `Timeline of ${event.key}`;
    key.append(shown);
  }
  const data = element("td", "data", "");
  for (const [name, value] of dataOf(event).slice(0, MOST_DATA)) {
    const pair = element("span", "", "");
    pair.append(element("i", "", name), ` ${value.slice(0, 200)}`);
    data.append(pair, " ");
  }
  const time = element("th", "time", "");
  time.scope = "row";
  time.append(button);
  row.append(time, elapsed, element("td", "type", event.type), key, data);
  return { row, button, elapsed };
}

function detailRow(event, life) {
  const row = element("tr", "detail", "");
  const cell = element("td", "", "");
  // A cell that spans more columns than are shown would make another one.
  cell.colSpan = [...find("tail").tHead.rows[0].cells].filter((heading) => heading.offsetParent !== null).length;
  const json = element("pre", "", JSON.stringify(event, null, 2));
  json.tabIndex = 0;
  json.ariaLabel = "The event as JSON";
  json.setAttribute("role", "region");
  cell.append(json, life);
  row.append(cell);
  return row;
}
