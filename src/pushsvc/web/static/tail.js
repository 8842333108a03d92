/** Events of a topic in the order of their offsets: the newest, and older ones that were asked for. No DOM. */

export const KEPT = 1_000;

export class Tail {
  #events = [];
  #arrived = [];
  #kept = KEPT;
  /** How many events arrived since `read` was called last. */
  unread = 0;

  clear() {
    this.#events = [];
    this.#arrived = [];
    this.#kept = KEPT;
    this.unread = 0;
  }

  /** Take an event of the feed. */
  push(event) {
    this.#arrived.push(event);
    this.unread += 1;
    // Many events between two reads: the oldest would be dropped by the next read anyway.
    if (this.#arrived.length >= 2 * this.#kept) this.#arrived.splice(0, this.#arrived.length - this.#kept);
  }

  /** Take events of the history, in any order, but for those that are here. Older ones that were asked for are kept. */
  merge(events, areOlder = false) {
    this.#join();
    const known = new Set(this.#events.map(({ $offset }) => $offset));
    const added = events.filter(({ $offset }) => !known.has($offset));
    if (areOlder) this.#kept += added.length;
    this.#events = [...this.#events, ...added].sort((a, b) => a.$offset - b.$offset).slice(-this.#kept);
  }

  /** Take the present form of an event that may be here. */
  correct(event) {
    this.#join();
    this.#events = corrected(this.#events, event);
  }

  remove(offset) {
    this.#join();
    this.#events = without(this.#events, offset);
  }

  /** The offset of the newest event, or null. */
  get newest() {
    this.#join();
    return this.#events.at(-1)?.$offset ?? null;
  }

  /** Leave out the events up to an offset: some after it are missing. */
  forget(offset) {
    this.#join();
    this.#kept = KEPT;
    this.#events = this.#events.filter(({ $offset }) => $offset > offset);
  }

  /** The events, oldest first. */
  read() {
    this.#join();
    this.unread = 0;
    return this.#events;
  }

  #join() {
    if (this.#arrived.length === 0) return;
    const newest = this.#events.at(-1)?.$offset ?? -1;
    const arrived = this.#arrived;
    this.#arrived = [];
    this.#events = [...this.#events, ...arrived.filter(({ $offset }) => $offset > newest)].slice(-this.#kept);
    // A correction can make an older event one that the filter selects.
    const entered = arrived.filter(({ $offset }) => $offset <= newest);
    if (entered.length > 0) this.merge(entered);
  }
}

export function corrected(events, event) {
  return events.map((each) => (each.$offset === event.$offset ? event : each));
}

export function without(events, offset) {
  return events.filter(({ $offset }) => $offset !== offset);
}

/** Whether one of the names or values of an event contains a text, whatever its case. */
export function contains(event, part) {
  if (part === "") return true;
  const { $topic, $offset, ...own } = event;
  return JSON.stringify(own).toLowerCase().includes(part.toLowerCase()) || textOf(own).toLowerCase().includes(part.toLowerCase());
}

/** The names and values of an event's data as [name, text], without its attributes. */
export function dataOf(event) {
  const attributes = new Set(["$topic", "$offset", "id", "type", "time", "key"]);
  return Object.entries(event)
    .filter(([name]) => !attributes.has(name))
    .map(([name, value]) => [name, valueText(value)]);
}

function valueText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The values without the quotes and escapes of JSON. */
function textOf(own) {
  return Object.values(own).map(valueText).join("\n");
}
