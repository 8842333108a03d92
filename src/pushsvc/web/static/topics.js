/** The topics that the page knows: the first by name, those created since, and those asked for. Never all of them. */

import { formatCount, formatTime } from "./format.js";

const MOST = 1_000;
const SHOWN = 50;

export class Topics {
  #known = new Map();
  #asked = null;
  /** Number of all topics; null before the server has named it. */
  total = null;

  /** Replace everything by the data of a `topics` event. */
  replace({ topics, total }) {
    this.#known = new Map(topics.map((topic) => [topic.topic, topic]));
    this.total = total;
  }

  /** Apply the data of a `changes` event. */
  change({ added, removed, total }) {
    for (const name of removed) this.#known.delete(name);
    for (const topic of added) this.#add(topic);
    this.total = total;
  }

  /** The metadata of a topic, or null. */
  get(name) {
    return this.#known.get(name) ?? null;
  }

  /** The known topic with statistics and the most events, or null. */
  busiest() {
    const existing = [...this.#known.values()].filter(({ exists, windows }) => exists && windows?.length);
    return existing.reduce((most, topic) => (most && most.last_offset >= topic.last_offset ? most : topic), null);
  }

  /** Ask the server for a topic that is not known. Without an answer its windows are null. */
  async ask(name) {
    if (this.#asked === name) return false;
    this.#asked = name;
    let topic = { topic: name, exists: false, windows: null };
    try {
      topic = await read(`v1/topics/${encodeURIComponent(name)}`);
    } catch {
      // The page goes on with the window in its address, and asks again when it has connected again.
    }
    if (this.#asked === name) this.#asked = null;
    if (!this.#known.has(name)) this.#add(topic);
    return true;
  }

  #add(topic) {
    this.#known.delete(topic.topic);
    this.#known.set(topic.topic, topic);
    while (this.#known.size > MOST) this.#known.delete(this.#known.keys().next().value);
  }
}

/** Resolve to the topics whose names contain a text, as options of a combobox. */
export async function findTopics(part, signal) {
  const { topics, total } = await read(`v1/topics?${new URLSearchParams({ search: part, limit: SHOWN })}`, signal);
  const options = topics.map(({ topic, last_arrival: last }) => ({
    value: topic,
    note: last === null ? "" : `last event ${formatTime(last)}`,
  }));
  return { options, total };
}

export function describeTopics(options, total, part) {
  if (total === 0) return part === "" ? "There is no topic yet." : `No topic contains “${part}”.`;
  const advice = part === "" ? "type a part of a name" : "type more of the name";
  if (options.length < total) return `${options.length} of ${formatCount(total)} topics: ${advice}`;
  return total === 1 ? "1 topic" : `${total} topics`;
}

async function read(address, signal) {
  const answer = await fetch(address, { signal, headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}
