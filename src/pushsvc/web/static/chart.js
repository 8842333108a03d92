/** A time series in SVG that moves with the clock. */

import { formatClock, formatTick, formatValue } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120].map((seconds) => seconds * 1_000);
const TOP = 12;
const BOTTOM = 26;
const CHARACTER = 7.6;
const LEAST_SPAN = 0.1;

export class Chart {
  #svg;
  #parts;
  #width = 0;
  #height = 0;
  #view = null;
  #pointer = null;

  constructor(svg) {
    this.#svg = svg;
    const clip = element("clipPath", { id: "chart-clip" }, element("defs", {}, svg));
    this.#parts = {
      clip: element("rect", { y: 0 }, clip),
      grid: element("g", { class: "grid" }, svg),
      ticks: element("g", { class: "ticks" }, svg),
      area: element("path", { class: "area", "clip-path": "url(#chart-clip)" }, svg),
      line: element("path", { class: "line", "clip-path": "url(#chart-clip)" }, svg),
      hover: element("g", { class: "hover", visibility: "hidden" }, svg),
      dot: element("circle", { class: "dot", r: 4.5 }, svg),
      tag: element("text", { class: "tag", "dominant-baseline": "central" }, svg),
      none: element("text", { class: "none", "text-anchor": "middle" }, svg),
    };
    element("line", {}, this.#parts.hover);
    element("circle", { r: 4 }, this.#parts.hover);
    element("text", { y: TOP + 4 }, this.#parts.hover);
    new ResizeObserver(() => this.#measure()).observe(svg);
    svg.addEventListener("pointermove", (event) => this.#hover(event.offsetX));
    svg.addEventListener("pointerleave", () => this.#hover(null));
  }

  /**
   * @param {object} view `lines` of [time, value], `last` (the newest value or null), `column`, `now` and `span` in
   *   milliseconds, `zero` (the scale begins there), `empty` (the text shown if there is no line)
   */
  draw(view) {
    this.#view = view;
    if (this.#width > 0) this.#render();
  }

  /** Milliseconds in which a chart of `span` moves by half a pixel. */
  frameInterval(span) {
    return span / Math.max(200, this.#width * 2);
  }

  #measure() {
    const { width, height } = this.#svg.getBoundingClientRect();
    this.#width = width;
    this.#height = height;
    if (this.#view && width > 0) this.#render();
  }

  #hover(x) {
    this.#pointer = x;
    if (this.#view && this.#width > 0) this.#render();
  }

  #render() {
    const { lines, last, column, now, span, zero, empty } = this.#view;
    const shown = lines.map((line) => clipped(line, now - span)).filter((line) => line.length > 0);
    const scale = valueScale(shown.flat(), zero);
    const labels = scale.ticks.map((tick) => formatTick(tick, scale.step));
    const tag = last === null ? "" : formatValue(last, column);
    const left = Math.max(...labels.map((label) => label.length), 2) * CHARACTER + 14;
    const right = this.#width - Math.max(4, tag.length) * (CHARACTER + 0.8) - 18;
    const bottom = this.#height - BOTTOM;
    const x = (time) => right - ((now - time) / span) * (right - left);
    const y = (value) => bottom - ((value - scale.low) / (scale.high - scale.low)) * (bottom - TOP);

    assign(this.#parts.clip, { x: left, width: Math.max(0, right - left + 1), height: this.#height });
    this.#drawGrid(scale, labels, y, left, right);
    this.#drawTimes(now, span, x, left, right);
    assign(this.#parts.line, { d: shown.map((line) => path(line, x, y)).join("") });
    // An area means an amount from zero on; above any other baseline it would exaggerate.
    const filled = scale.low <= 0 && scale.high >= 0 ? shown : [];
    assign(this.#parts.area, { d: filled.map((line) => area(line, x, y, y(0))).join("") });
    this.#drawLast(shown, last, tag, x, y);
    this.#parts.none.textContent = shown.length === 0 ? empty : "";
    assign(this.#parts.none, { x: (left + right) / 2, y: (TOP + bottom) / 2 });
    this.#drawHover(shown, { x, y, left, right, bottom });
  }

  #drawGrid(scale, labels, y, left, right) {
    const { grid } = this.#parts;
    resize(grid, labels.length, () => {
      const tick = element("g", {}, grid);
      element("line", {}, tick);
      element("text", { "text-anchor": "end", "dominant-baseline": "central" }, tick);
    });
    labels.forEach((label, i) => {
      const [line, text] = grid.children[i].children;
      const height = Math.round(y(scale.ticks[i])) + 0.5;
      assign(line, { x1: left, x2: right, y1: height, y2: height });
      assign(text, { x: left - 8, y: height });
      text.textContent = label;
    });
  }

  #drawTimes(now, span, x, left, right) {
    const { ticks } = this.#parts;
    const most = Math.max(2, (right - left) / 80);
    const step = STEPS.find((candidate) => span / candidate <= most) ?? STEPS.at(-1);
    const times = [];
    for (let time = Math.ceil((now - span) / step) * step; time <= now; time += step) {
      if (x(time) > left + 24 && x(time) < right - 6) times.push(time);
    }
    resize(ticks, times.length, () => element("text", { "text-anchor": "middle" }, ticks));
    times.forEach((time, i) => {
      assign(ticks.children[i], { x: x(time).toFixed(1), y: this.#height - 6 });
      ticks.children[i].textContent = formatClock(time);
    });
  }

  #drawLast(shown, last, tag, x, y) {
    const point = last === null ? null : shown.at(-1)?.at(-1);
    const visibility = point ? "visible" : "hidden";
    const [cx, cy] = point ? [x(point[0]), y(point[1])] : [0, 0];
    assign(this.#parts.dot, { cx, cy, visibility });
    assign(this.#parts.tag, { x: cx + 11, y: cy, visibility });
    this.#parts.tag.textContent = tag;
  }

  #drawHover(shown, { x, y, left, right, bottom }) {
    const { now, span, column } = this.#view;
    const [rule, dot, text] = this.#parts.hover.children;
    const inside = this.#pointer !== null && this.#pointer >= left && this.#pointer <= right;
    const time = inside ? now - ((right - this.#pointer) / (right - left)) * span : 0;
    const value = inside ? valueAt(shown, time) : null;
    assign(this.#parts.hover, { visibility: value === null ? "hidden" : "visible" });
    if (value === null) return;
    assign(rule, { x1: this.#pointer, x2: this.#pointer, y1: TOP, y2: bottom });
    assign(dot, { cx: x(time), cy: y(value) });
    const before = this.#pointer > (left + right) / 2;
    assign(text, { x: this.#pointer + (before ? -8 : 8), "text-anchor": before ? "end" : "start" });
    text.textContent = `${formatClock(time)}  ${formatValue(value, column)}`;
  }
}

/** The part of a line from `begin` on; its first point is interpolated at `begin`. */
function clipped(line, begin) {
  const first = line.findIndex(([time]) => time >= begin);
  if (first < 0) return [];
  return first === 0 ? line : [[begin, interpolate(line[first - 1], line[first], begin)], ...line.slice(first)];
}

function interpolate([t0, v0], [t1, v1], time) {
  return t1 === t0 ? v1 : v0 + ((time - t0) / (t1 - t0)) * (v1 - v0);
}

function valueAt(lines, time) {
  for (const line of lines) {
    const next = line.findIndex(([at]) => at >= time);
    if (next > 0) return interpolate(line[next - 1], line[next], time);
  }
  return null;
}

/**
 * Round limits around the values, and about five ticks between them. The scale begins at zero if `zero` is true, or if
 * that at most doubles it. It spans at least LEAST_SPAN of the values, so that noise does not look like a change.
 */
export function valueScale(points, zero) {
  let low = Infinity;
  let high = -Infinity;
  for (const [, value] of points) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) [low, high] = [0, 1];
  const size = Math.max(Math.abs(low), Math.abs(high));
  const lacking = size * LEAST_SPAN - (high - low);
  if (zero || (high - low) * 2 >= size) [low, high] = [Math.min(0, low), Math.max(0, high)];
  else if (lacking > 0) [low, high] = [low - lacking / 2, high + lacking / 2];
  if (low === high) high = low + 1;
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const first = Math.floor(low / step);
  const end = Math.ceil(high / step);
  const ticks = Array.from({ length: end - first + 1 }, (_, i) => (first + i) * step);
  return { low: first * step, high: end * step, step, ticks };
}

function path(line, x, y) {
  return line.map(([time, value], i) => `${i ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`).join("");
}

function area(line, x, y, base) {
  const floor = base.toFixed(1);
  return `${path(line, x, y)}L${x(line.at(-1)[0]).toFixed(1)} ${floor}L${x(line[0][0]).toFixed(1)} ${floor}Z`;
}

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  assign(made, attributes);
  parent.append(made);
  return made;
}

function assign(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

function resize(group, length, make) {
  while (group.children.length < length) make();
  while (group.children.length > length) group.lastChild.remove();
}
