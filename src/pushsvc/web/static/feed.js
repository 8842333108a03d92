/** What the page follows: subscriptions on a connection that all tabs of a session share. */

import { connect } from "../client.js";

const FIRST_DELAY = 1_000;
const MAX_DELAY = 30_000;

/** The connection, and the feeds on it. */
export class Live {
  #push = null;
  #session = null;
  #feeds = new Set();

  /** Connect tabs of the same session, which an id tells apart; null: nobody is signed in. */
  connect(session) {
    if (this.#push !== null && session === this.#session) return;
    this.disconnect();
    this.#session = session;
    this.#push = connect(".", { subject: session, onState: (state) => state === "connecting" && this.#interrupt() });
    for (const feed of this.#feeds) feed.follow();
  }

  /** Leave the connection. Feeds wait for the next one. */
  disconnect() {
    this.#push?.close();
    this.#push = null;
    this.#interrupt();
  }

  /** Subscribe with a function of the client and its arguments, once connected, from now on for a feed. */
  subscribe(feed, [kind, ...given]) {
    this.#feeds.add(feed);
    return this.#push?.[kind](...given) ?? null;
  }

  remove(feed) {
    this.#feeds.delete(feed);
  }

  #interrupt() {
    for (const feed of this.#feeds) feed.interrupt();
  }
}

/** A subscription that is made again when the server has refused it, perhaps for want of a token. */
export class Feed {
  #live;
  #handlers;
  #onState;
  #wanted = "";
  #subscription = null;
  #timer = 0;
  #failures = 0;
  state = "closed";

  /**
   * @param {Live} live
   * @param {Object<string, function(object): void>} handlers called with the data, by the name of the message
   * @param {function("open"|"connecting"|"closed"): void} onState called at each change of the state
   */
  constructor(live, handlers, onState = () => {}) {
    this.#live = live;
    this.#handlers = handlers;
    this.#onState = onState;
  }

  /** Whether something is followed, connected or not. */
  get followed() {
    return this.#wanted !== "";
  }

  /** Follow what a function of the client gives, such as open("stats", "flights"); do nothing if it is followed already. */
  open(...wanted) {
    if (JSON.stringify(wanted) === this.#wanted) return;
    this.close();
    this.#wanted = JSON.stringify(wanted);
    this.follow();
  }

  close() {
    clearTimeout(this.#timer);
    this.#live.remove(this);
    this.#subscription?.close();
    this.#subscription = null;
    this.#wanted = "";
    this.#failures = 0;
    this.#report("closed");
  }

  /** Subscribe on the present connection. */
  follow() {
    clearTimeout(this.#timer);
    this.#report("connecting");
    const subscription = this.#live.subscribe(this, JSON.parse(this.#wanted));
    this.#subscription = subscription;
    // What an earlier subscription still delivers is not meant any more.
    subscription?.subscribe((message) => subscription === this.#subscription && this.#take(message));
  }

  /** Note that the connection is lost. */
  interrupt() {
    if (this.state === "open") this.#report("connecting");
  }

  #take({ name, data }) {
    if (name === "error") this.#retry();
    else if (name !== "open") this.#handlers[name]?.(data);
    else {
      this.#failures = 0;
      this.#report("open");
    }
  }

  #retry() {
    this.#subscription = null;
    const delay = Math.min(MAX_DELAY, FIRST_DELAY * 2 ** this.#failures) * (0.5 + Math.random());
    this.#failures += 1;
    this.#timer = setTimeout(() => this.follow(), delay);
    this.#report("closed");
  }

  #report(state) {
    if (state === this.state) return;
    this.state = state;
    this.#onState(state);
  }
}
