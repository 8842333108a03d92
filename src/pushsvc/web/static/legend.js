/** The keys of a chart with several: their colours and newest values, and what adds and removes them. */

import { MOST_SERIES } from "./chart.js";
import { fill, number, text } from "./dom.js";
import { keyName } from "./format.js";

const NONE = "none"; // no JSON

const find = (id) => document.getElementById(id);

export class Legend {
  #onRemove;
  #items = new Map();

  /**
   * @param {function(string): void} onAdd called with a key to chart beside the others
   * @param {function(?string): void} onRemove called with a charted key
   */
  constructor(onAdd, onRemove) {
    this.#onRemove = onRemove;
    find("compare").addEventListener("change", (event) => {
      const { value } = event.target;
      event.target.value = NONE;
      if (value !== NONE) onAdd(JSON.parse(value));
    });
  }

  /** Show `series` of {key, last}; `options` as [value, label] are the keys that may be added. */
  draw(series, options, column) {
    find("compare").closest("label").hidden = options.length === 0 || series.length >= MOST_SERIES;
    fill(find("compare"), [[NONE, "Compare with…"], ...options], NONE);
    const list = find("legend");
    list.hidden = series.length < 2;
    const keys = new Set(series.map(({ key }) => key));
    for (const [key, { item }] of this.#items) {
      if (keys.has(key)) continue;
      item.remove();
      this.#items.delete(key);
    }
    series.forEach(({ key, last }, i) => {
      const made = this.#made(key);
      made.item.style.setProperty("--swatch", `var(${i === 0 ? "--accent" : `--line-${i + 1}`})`);
      if (list.children[i] !== made.item) list.insertBefore(made.item, list.children[i] ?? null);
      number(made.value, last, column);
    });
  }

  #made(key) {
    const known = this.#items.get(key);
    if (known) return known;
    const item = document.createElement("li");
    const name = document.createElement("span");
    const value = document.createElement("b");
    const button = document.createElement("button");
    text(name, keyName(key));
    button.type = "button";
    button.textContent = "×";
    button.ariaLabel = `Remove ${keyName(key)} from the chart`;
    button.addEventListener("click", () => this.#onRemove(key));
    item.append(name, value, button);
    const made = { item, value };
    this.#items.set(key, made);
    return made;
  }
}
