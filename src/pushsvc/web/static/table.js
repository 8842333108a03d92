/**
 * The rows of one field by key: totals first, then the keys in the order of the chosen column. The keyboard works as in
 * the grid of the WAI-ARIA Authoring Practices: one tab stop, arrow keys between the cells, Enter to choose.
 */

import { number, text } from "./dom.js";
import { keyName, keyTitle, statisticHeading, statisticName } from "./format.js";
import { isNumber } from "./ranking.js";

const PAGE_OF_ROWS = 10;
const FLASH = { duration: 700, easing: "ease-out" };
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class Table {
  #table;
  #rows = new Map();
  #columns = [];
  #onSort;
  #stop = null;

  /**
   * @param {HTMLTableElement} table with a caption, and an empty thead and tbody
   * @param {function(string): void} onSort called with a column, "key" among them
   * @param {function(?string, ?string): void} onPick called with a row's key and, for a click on a number, its column
   */
  constructor(table, onSort, onPick) {
    this.#table = table;
    this.#onSort = onSort;
    table.tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      const view = row && [...this.#rows.values()].find((candidate) => candidate.row === row);
      const column = event.target.closest("td")?.dataset.column ?? null;
      if (view) onPick(view.key, column !== null && isNumber(column) ? column : null);
    });
    table.addEventListener("keydown", (event) => this.#press(event));
    table.addEventListener("focusin", (event) => this.#setStop(event.target));
  }

  /**
   * @param {object} view `caption`, `columns` to show as [name, index in a row], `rows` in order, `field`, `selected` key and
   *   `statistic`, `sort`, `descending`, `scale` (the value of a full bar in the sorted column), `approximate` (the index
   *   in a row of the flag for approximate `distinct` or most frequent values, or -1)
   */
  draw(view) {
    text(this.#table.caption, view.caption);
    this.#drawHead(view);
    const body = this.#table.tBodies[0];
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    const wanted = new Set(view.rows.map((row) => row[0]));
    for (const [key, made] of this.#rows) {
      if (wanted.has(key)) continue;
      made.row.remove();
      this.#rows.delete(key);
    }
    let before = body.firstChild;
    for (const values of view.rows) {
      const made = this.#made(values[0]);
      if (made.row === before) before = before.nextSibling;
      else body.insertBefore(made.row, before);
      this.#drawRow(made, values, view);
    }
    // Moving a row removes its focus.
    if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
    if (!this.#table.contains(this.#stop)) this.#setStop(focusable(this.#table.tHead.rows[0].cells[0]));
  }

  #setStop(element) {
    if (this.#stop) this.#stop.tabIndex = -1;
    this.#stop = element;
    element.tabIndex = 0;
  }

  #press(event) {
    const cell = event.target.closest("th, td");
    if (!cell || event.altKey || event.metaKey || event.shiftKey) return;
    const moves = {
      ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0],
      PageDown: [PAGE_OF_ROWS, 0], PageUp: [-PAGE_OF_ROWS, 0],
      Home: [event.ctrlKey ? -Infinity : 0, -Infinity], End: [event.ctrlKey ? Infinity : 0, Infinity],
    };
    if (event.key in moves) this.#move(cell, ...moves[event.key]);
    else if (cell === event.target && (event.key === "Enter" || event.key === " ")) cell.click();
    else return;
    event.preventDefault();
  }

  #move(cell, down, right) {
    const row = at(this.#table.rows, cell.parentNode.rowIndex + down);
    focusable(at(row.cells, cell.cellIndex + right)).focus();
  }

  #drawHead({ columns, sort, descending, statistic }) {
    const names = ["key", ...columns.map(([name]) => name)];
    if (names.join() !== this.#columns.join()) {
      this.#columns = names;
      this.#table.tHead.replaceChildren(this.#headRow(names));
      for (const { row } of this.#rows.values()) row.remove();
      this.#rows.clear();
    }
    for (const cell of this.#table.tHead.rows[0].cells) {
      const sorted = cell.dataset.column === sort;
      cell.ariaSort = sorted ? (descending ? "descending" : "ascending") : "none";
      cell.classList.toggle("chosen", cell.dataset.column === statistic);
    }
  }

  #headRow(names) {
    const row = document.createElement("tr");
    for (const name of names) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.dataset.column = name;
      row.append(cell);
      if (!isNumber(name)) {
        cell.tabIndex = -1;
        cell.textContent = statisticHeading(name);
        continue;
      }
      const button = document.createElement("button");
      button.type = "button";
      button.tabIndex = -1;
      button.textContent = name === "key" ? "Key" : statisticHeading(name);
      button.title = `Sort by ${name === "key" ? "key" : statisticName(name).toLowerCase()}`;
      button.addEventListener("click", () => this.#onSort(name));
      cell.append(button);
    }
    return row;
  }

  #made(key) {
    const known = this.#rows.get(key);
    if (known) return known;
    const row = document.createElement("tr");
    row.dataset.scope = key === null ? "all" : "key";
    row.dataset.key = key ?? "";
    const head = document.createElement("th");
    head.scope = "row";
    const dot = document.createElement("i");
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1;
    button.textContent = keyName(key);
    button.title = keyTitle(key);
    head.append(dot, button);
    row.append(head);
    const cells = this.#columns.slice(1).map((name) => {
      const cell = document.createElement("td");
      cell.dataset.column = name;
      cell.tabIndex = -1;
      row.append(cell);
      return cell;
    });
    const made = { key, row, dot, button, cells, values: null, flashed: 0 };
    this.#rows.set(key, made);
    return made;
  }

  #drawRow(made, values, { columns, field, selected, statistic, sort, scale, approximate }) {
    const chosen = made.key === selected;
    made.row.dataset.field = field ?? "";
    made.row.classList.toggle("chosen", chosen);
    made.button.ariaPressed = String(chosen);
    columns.forEach(([name, index], i) => {
      const cell = made.cells[i];
      const value = values[index] ?? null;
      if (made.values?.[index] !== value || made.values === null) {
        const about = values[approximate] && (name === "distinct" || Array.isArray(value)) ? "≈ " : "";
        number(cell, value, name, about);
        cell.dataset.value = value === null ? "" : Array.isArray(value) ? JSON.stringify(value) : String(value);
      }
      cell.classList.toggle("chosen", name === statistic);
      cell.ariaSelected = chosen && name === statistic ? "true" : null;
      const share = name === sort && made.key !== null && scale > 0 ? Math.min(1, Math.abs(value ?? 0) / scale) : 0;
      cell.style.setProperty("--share", share.toFixed(3));
    });
    if (made.values !== null && made.values !== values) flash(made);
    made.values = values;
  }
}

/** What gets the focus in a cell: its button, else the cell. */
function focusable(cell) {
  return cell.querySelector("button") ?? cell;
}

/** The item at an index, or the nearest one. */
function at(items, index) {
  return items[Math.min(Math.max(index, 0), items.length - 1)];
}

function flash(made) {
  const now = performance.now();
  if (reducedMotion.matches || now - made.flashed < FLASH.duration) return;
  made.flashed = now;
  made.dot.animate([{ opacity: 1, transform: "scale(1)" }, { opacity: 0, transform: "scale(.4)" }], FLASH);
}
