/** An EventSource that reconnects also after an HTTP error, which ends the browser's own for good. */

const FIRST_DELAY = 1_000;
const MAX_DELAY = 30_000;

export class Stream {
  #handlers;
  #onState;
  #onText;
  #source = null;
  #timer = 0;
  #failures = 0;
  #url = "";

  /**
   * @param {Object<string, function(object): void>} handlers called with the parsed data, by event name
   * @param {function("open"|"connecting"|"closed"): void} onState called at each change of the connection
   * @param {?function(string): void} onText called with the unparsed data of events named `message`
   */
  constructor(handlers, onState, onText = null) {
    this.#handlers = handlers;
    this.#onState = onState;
    this.#onText = onText;
    this.state = "closed";
  }

  /** Whether a URL is followed, connected or not. */
  get followed() {
    return this.#url !== "";
  }

  /** Follow `url`; do nothing if it is followed already. */
  open(url) {
    if (url === this.#url) return;
    this.close();
    this.#url = url;
    this.#connect();
  }

  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    this.#url = "";
    this.#failures = 0;
    this.#report("closed");
  }

  #connect() {
    const source = new EventSource(this.#url);
    this.#source = source;
    this.#report("connecting");
    source.onopen = () => {
      this.#failures = 0;
      this.#report("open");
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.#retry();
      else this.#report("connecting");
    };
    if (this.#onText) source.addEventListener("message", (event) => this.#onText(event.data));
    for (const [name, handle] of Object.entries(this.#handlers)) {
      // A closed source delivers no more events, so a handler never gets frames of an earlier URL.
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  }

  #retry() {
    this.#report("closed");
    const delay = Math.min(MAX_DELAY, FIRST_DELAY * 2 ** this.#failures) * (0.5 + Math.random());
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), delay);
  }

  #report(state) {
    if (state === this.state) return;
    this.state = state;
    this.#onState(state);
  }
}
