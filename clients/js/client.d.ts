/** What a server refused: `status` and `message` are those of its problem document. */
export class PushError extends Error {
  readonly status: number;
}

/** An event with its data as further members. */
export interface PushEvent {
  $topic: string;
  $offset: number;
  time: string;
  type: string;
  id?: string;
  key?: string;
  [name: string]: unknown;
}

/** A row of statistics: `key` null is the total of all keys, `field` null counts the events. */
export interface Row {
  topic: string;
  window: string;
  key: string | null;
  field: string | null;
  count: number;
  [column: string]: unknown;
}

export type Name = "open" | "topics" | "changes" | "event" | "snapshot" | "update" | "corrected" | "deleted" | "reset" | "error";
export type Filters = Record<string, string | number | boolean | readonly (string | number)[]>;

export interface Subscription<Value, Data = unknown> {
  readonly text: string;
  /** The rows or newest events, the same array until they change; null for events. */
  readonly value: Value;
  /** The error by which the server ended it, or null. */
  readonly error: PushError | null;
  /** Call a listener with each message; return what ends this. `open` has no data: the subscription is on the stream. */
  subscribe(listener: (message: { name: Name; data?: Data | PushError }) => void): () => void;
  close(): void;
}

export interface Statistics extends Subscription<Row[]> {
  /** The row of a key and a field, null for all; of a topic with several groupings also the one of the key, null for all. */
  get(key?: string | null, field?: string | null, by?: string | null): Row | undefined;
}

export interface Latest extends Subscription<PushEvent[]> {
  get(key: string): PushEvent | undefined;
}

export interface Topic {
  topic: string;
  exists: boolean;
  last_offset: number | null;
  windows: string[];
  [name: string]: unknown;
}

export interface Topics extends Subscription<Topic[]> {
  get(name: string): Topic | undefined;
}

export type State = "connecting" | "open" | "closed";
type Token = string | null | undefined;

export interface Options {
  /** A token or API key, or a function that returns one; it gets true when the server refused the last. */
  token?: Token | ((refused: boolean) => Token | Promise<Token>);
  /** false: a stream of this tab alone; "lock": share, but without a SharedWorker. */
  share?: boolean | "lock";
  /** As of fetch; "same-origin" by default. */
  credentials?: RequestCredentials;
  /** Who is signed in, where cookies tell: tabs with an equal one share a stream. */
  subject?: string | null;
  onState?: (state: State) => void;
}

export interface Connection {
  readonly state: State;
  /** Events of a topic or pattern. Filters are those of the server: type, key, where; all calls may leave them out. */
  events(topic: string, listener: (event: PushEvent, name: Name) => void): Subscription<null, PushEvent>;
  events(topic: string, filters?: Filters, listener?: ((event: PushEvent, name: Name) => void) | null): Subscription<null, PushEvent>;
  /** Statistics: window, key, field, top, by, every. */
  stats(topic: string, listener: (frame: unknown, name: Name) => void): Statistics;
  stats(topic: string, filters?: Filters, listener?: ((frame: unknown, name: Name) => void) | null): Statistics;
  /** The newest event of each key of a topic. */
  latest(topic: string, listener: (frame: unknown, name: Name) => void): Latest;
  latest(topic: string, filters?: Filters, listener?: ((frame: unknown, name: Name) => void) | null): Latest;
  /** The topics that may be seen; with `changes: 1` the first ones and those created since, at most 1,000. */
  topics(listener: (data: unknown, name: Name) => void): Topics;
  topics(filters?: Filters, listener?: ((data: unknown, name: Name) => void) | null): Topics;
  close(): void;
}

/** Connect to the server at `url`, such as "/" or "https://push.example.com/". */
export function connect(url: string, options?: Options): Connection;
