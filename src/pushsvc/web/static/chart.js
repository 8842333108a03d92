/** Time series that move with the clock, drawn by uPlot, with a crosshair that reads out their values. */

import { formatClock, formatTick, formatValue, keyName } from "./format.js";

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120].map((seconds) => seconds * 1_000);
const TOP = 14;
const BOTTOM = 26;
const CHARACTER = 7.6;
const LEAST_SPAN = 0.1;
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif';
const KEY_STEP = 0.02; // of the span: how far an arrow key moves the crosshair, which so reads out every mark
/** How many series a chart may have: as many as there are colours. */
export const MOST_SERIES = 6;

export class Chart {
  #root;
  #plot = null;
  #overlay = null;
  #width = 0;
  #height = 0;
  #view = null;
  #scale = null;
  #colors = null;
  /** Where the crosshair is as a share of the span, or null. It stays there while the chart moves. */
  #cross = null;

  constructor(root) {
    this.#root = root;
    new ResizeObserver(() => this.#measure()).observe(root);
    root.addEventListener("pointermove", (event) => this.#point(event.clientX));
    root.addEventListener("pointerleave", () => this.#move(null));
    root.addEventListener("keydown", (event) => this.#press(event));
    root.addEventListener("blur", () => this.#move(null));
  }

  /**
   * @param {object} view `series` of {key, lines of [time, value], last (the newest value or null)}, `column`, `now` and
   *   `span` in milliseconds, `zero` (the scale begins there), `empty` (the text shown if there is no line), `marks` of
   *   {time, raised, text}
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
    const { width, height } = this.#root.getBoundingClientRect();
    if (width === this.#width && height === this.#height) return;
    this.#width = width;
    this.#height = height;
    this.#plot?.setSize({ width, height });
    if (this.#view && width > 0) this.#render();
  }

  #render() {
    const { series, now, span, zero } = this.#view;
    const begin = now - span;
    const shown = series.map(({ lines }) => lines.map((line) => clipped(line, begin)).filter((line) => line.length > 0));
    this.#scale = valueScale(shown.flat(2), zero);
    this.#colors = colorsOf(this.#root);
    const data = aligned(shown);
    if (this.#plot?.series.length !== data.length) this.#make(data);
    else this.#plot.setData(data);
    this.#read();
  }

  // uPlot

  #make(data) {
    this.#plot?.destroy();
    const color = (of) => () => this.#colors[of];
    const lines = data.slice(1).map((_, i) => ({
      stroke: () => this.#colors.lines[i],
      width: 2,
      points: { show: false },
      // An area means an amount from zero on; above any other baseline, or of several series, it would mislead.
      fill: () => (data.length === 2 && this.#scale.low <= 0 && this.#scale.high >= 0 ? this.#colors.tint : null),
      fillTo: () => 0,
      pxAlign: 0,
    }));
    const axis = { stroke: color("quiet"), font: `12px ${FONT}`, ticks: { show: false } };
    const labels = () => this.#scale.ticks.map((tick) => formatTick(tick, this.#scale.step));
    const options = {
      width: this.#width,
      height: this.#height,
      ms: 1,
      pxAlign: 0,
      padding: [TOP, () => this.#right(), 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: () => [this.#view.now - this.#view.span, this.#view.now] },
        y: { range: () => [this.#scale.low, this.#scale.high] },
      },
      axes: [
        { ...axis, size: BOTTOM, gap: 8, grid: { show: false }, splits: () => this.#times(), values: (_, times) => times.map(formatClock) },
        {
          ...axis, gap: 8, grid: { stroke: color("rule"), width: 1 }, splits: () => this.#scale.ticks, values: labels,
          size: () => Math.max(...labels().map((label) => label.length), 2) * CHARACTER + 14,
        },
      ],
      series: [{}, ...lines],
      hooks: { draw: [() => this.#decorate()] },
    };
    this.#plot = new uPlot(options, data, this.#root);
    this.#overlay = overlay(this.#plot.over, data.length - 1);
  }

  /** Room for the newest value. */
  #right() {
    const { series, column } = this.#view;
    const [{ last }, ...others] = series;
    const tag = others.length > 0 || last === null ? "" : formatValue(last, column);
    return tag ? Math.max(4, tag.length) * (CHARACTER + 0.8) + 18 : 12;
  }

  /** The times that are labelled: round ones whose labels do not touch the edges. */
  #times() {
    const { now, span } = this.#view;
    const width = this.#plot?.over.clientWidth || this.#width;
    const step = STEPS.find((candidate) => span / candidate <= Math.max(2, width / 80)) ?? STEPS.at(-1);
    const margin = (span * 26) / width;
    const times = [];
    for (let time = Math.ceil((now - span + margin) / step) * step; time < now - margin / 4; time += step) times.push(time);
    return times;
  }

  /** Draw what uPlot does not know: marks, the newest value, and that there is nothing. */
  #decorate() {
    const { series, column, now, span, marks, empty } = this.#view;
    const plot = this.#plot;
    const { ctx, bbox } = plot ?? {};
    if (!ctx) return;
    const scale = devicePixelRatio;
    ctx.save();
    for (const { time, raised } of marks) {
      if (time < now - span) continue;
      const x = plot.valToPos(time, "x", true);
      ctx.strokeStyle = ctx.fillStyle = raised ? this.#colors.bad : this.#colors.good;
      ctx.lineWidth = 1.5 * scale;
      ctx.setLineDash(raised ? [] : [4 * scale, 3 * scale]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      for (const [dx, dy] of raised ? [[-5, -4], [5, -4], [0, 4]] : [[-5, 4], [5, 4], [0, -4]]) {
        ctx.lineTo(x + dx * scale, bbox.top + (dy - 5) * scale);
      }
      ctx.fill();
    }
    ctx.setLineDash([]);
    ctx.textBaseline = "middle";
    series.forEach(({ lines, last }, i) => {
      const point = last === null ? null : lines.at(-1)?.at(-1);
      if (!point || point[0] < now - span) return;
      const x = plot.valToPos(point[0], "x", true);
      const y = plot.valToPos(point[1], "y", true);
      ctx.beginPath();
      ctx.arc(x, y, 4 * scale, 0, 2 * Math.PI);
      ctx.fillStyle = this.#colors.lines[i];
      ctx.strokeStyle = this.#colors.surface;
      ctx.lineWidth = 2 * scale;
      ctx.stroke();
      ctx.fill();
      if (series.length > 1) return;
      ctx.font = `600 ${13 * scale}px ${FONT}`;
      ctx.textAlign = "left";
      ctx.fillStyle = this.#colors.text;
      ctx.fillText(formatValue(last, column), x + 11 * scale, y);
    });
    if (plot.data[0].length === 0) {
      ctx.font = `${14 * scale}px ${FONT}`;
      ctx.textAlign = "center";
      ctx.fillStyle = this.#colors.quiet;
      ctx.fillText(empty, bbox.left + bbox.width / 2, bbox.top + bbox.height / 2);
    }
    ctx.restore();
  }

  // The crosshair

  #point(x) {
    if (!this.#plot) return;
    const { left, width } = this.#plot.over.getBoundingClientRect();
    this.#move(x < left || x > left + width ? null : (x - left) / width);
  }

  #press(event) {
    const at = this.#cross ?? 1;
    const places = { ArrowLeft: at - KEY_STEP, ArrowRight: at + KEY_STEP, Home: 0, End: 1 };
    if (event.key === "Escape") this.#move(null);
    else if (event.key in places) this.#move(Math.min(1, Math.max(0, places[event.key])));
    else return;
    event.preventDefault();
  }

  #move(share) {
    this.#cross = share;
    if (this.#view && this.#plot) this.#read();
  }

  /** Show the values where the crosshair is, for the eye and for a screen reader. */
  #read() {
    const { series, column, now, span, marks } = this.#view;
    const time = now - span * (1 - (this.#cross ?? 1));
    const values = series.map(({ lines, last }) => (this.#cross === null ? last : valueAt(lines, time)));
    const named = (i) => `${series.length > 1 ? `${keyName(series[i].key)} ` : ""}${formatValue(values[i], column)}`;
    const width = this.#plot.over.clientWidth;
    const near = this.#cross === null ? [] : marks.filter((mark) => Math.abs(mark.time - time) <= (span * KEY_STEP) / 2);
    const told = [formatClock(time), ...series.map((_, i) => named(i)), ...near.map((mark) => mark.text)];
    this.#root.setAttribute("aria-valuenow", String(Math.round(span * (this.#cross ?? 1))));
    this.#root.setAttribute("aria-valuemax", String(span));
    this.#root.setAttribute("aria-valuetext", told.join(", "));
    const { rule, dots, readout } = this.#overlay;
    rule.hidden = readout.hidden = this.#cross === null;
    dots.forEach((dot, i) => {
      dot.hidden = this.#cross === null || values[i] === null;
      if (dot.hidden) return;
      dot.style.left = `${this.#cross * width}px`;
      dot.style.top = `${this.#plot.valToPos(values[i], "y")}px`;
      dot.style.borderColor = this.#colors.lines[i];
    });
    if (this.#cross === null) return;
    rule.style.left = `${this.#cross * width}px`;
    readout.classList.toggle("before", this.#cross > 0.5);
    readout.style.left = `${this.#cross * width}px`;
    readout.replaceChildren(...told.map((line, i) => {
      const row = document.createElement("div");
      row.textContent = line;
      if (i > 0 && i <= series.length && series.length > 1) {
        const swatch = document.createElement("i");
        swatch.style.background = this.#colors.lines[i - 1];
        row.prepend(swatch);
      }
      return row;
    }));
  }
}

function overlay(over, count) {
  const made = (className) => {
    const element = document.createElement("div");
    element.className = className;
    element.hidden = true;
    over.append(element);
    return element;
  };
  const rule = made("cross");
  return { rule, dots: Array.from({ length: count }, () => made("dot")), readout: made("readout") };
}

/** The colours of the page's style, which depend on the visitor's scheme and on the connection. */
function colorsOf(root) {
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(name);
  const lines = ["--accent", ...Array.from({ length: MOST_SERIES - 1 }, (_, i) => `--line-${i + 2}`)].map(of);
  const named = Object.fromEntries(["quiet", "rule", "surface", "text", "tint", "bad", "good"].map((name) => [name, of(`--${name}`)]));
  return { ...named, lines };
}

/** Lines as uPlot takes them: the times of all, and the values of each series; undefined between two, null at an end. */
function aligned(series) {
  const points = series.map((lines) => {
    const values = new Map();
    for (const line of lines) {
      if (values.size > 0) values.set(line[0][0] - 0.5, null);
      for (const [time, value] of line) values.set(time, value);
    }
    return values;
  });
  const times = points.length === 1 ? [...points[0].keys()] : [...new Set(points.flatMap((values) => [...values.keys()]))].sort((a, b) => a - b);
  return [times, ...points.map((values) => times.map((time) => values.get(time)))];
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

/** The value of lines at a time, or null where there is none. */
function valueAt(lines, time) {
  for (const line of lines) {
    const next = line.findIndex(([at]) => at >= time);
    if (next > 0) return interpolate(line[next - 1], line[next], time);
    if (next === 0 && line[0][0] === time) return line[0][1];
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
