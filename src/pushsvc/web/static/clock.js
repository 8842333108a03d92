/** The server's clock, estimated from the times in its frames. */

const STEP = 2_000;
const DRIFT = 0.02;

export class ServerClock {
  #skew = null;
  /** The time of the newest frame, ms. */
  newest = 0;

  /** Use the time `at` (ms) of a frame. */
  observe(at) {
    this.newest = Math.max(this.newest, at);
    const difference = at - performance.now();
    // The frame with the least delay is the most exact. A large step is a clock that was set or a computer that slept.
    const trusted = this.#skew === null || difference > this.#skew || this.#skew - difference > STEP;
    this.#skew = trusted ? difference : this.#skew + (difference - this.#skew) * DRIFT;
  }

  /** Server time in ms, never before the newest frame. */
  now() {
    return Math.max(this.newest, this.#skew === null ? Date.now() : performance.now() + this.#skew);
  }
}
