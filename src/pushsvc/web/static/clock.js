/** The server's clock, told from the time that its frames bear. */

const STEP = 2_000;
const DRIFT = 0.02;

export class ServerClock {
  #skew = null;
  /** The time of the newest frame, ms. */
  newest = 0;

  /** Take note of a frame that bears the time `at` (ms). */
  hear(at) {
    this.newest = Math.max(this.newest, at);
    const difference = at - performance.now();
    // The frame that travelled fastest tells best; a large step is a clock that was set or a computer that slept.
    const trusted = this.#skew === null || difference > this.#skew || this.#skew - difference > STEP;
    this.#skew = trusted ? difference : this.#skew + (difference - this.#skew) * DRIFT;
  }

  /** Server time now, ms: never before that of the newest frame. */
  now() {
    return Math.max(this.newest, this.#skew === null ? Date.now() : performance.now() + this.#skew);
  }
}
