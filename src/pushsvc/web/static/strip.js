/** A strip with one mark for each of some times, from the oldest to the newest. */

import { formatTime } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

export function drawStrip(figure, times) {
  const [svg, caption] = figure.children;
  const begin = Math.min(...times);
  const end = Math.max(...times);
  const place = (time) => (end > begin ? (100 * (time - begin)) / (end - begin) : 50);
  while (svg.children.length > times.length) svg.lastChild.remove();
  while (svg.children.length < times.length) {
    const mark = document.createElementNS(SVG, "line");
    mark.setAttribute("y1", "0");
    mark.setAttribute("y2", "100%");
    svg.append(mark);
  }
  times.forEach((time, i) => {
    const x = `${place(time).toFixed(2)}%`;
    svg.children[i].setAttribute("x1", x);
    svg.children[i].setAttribute("x2", x);
  });
  const ends = [begin, end].map((time) => formatTime(new Date(time).toISOString()));
  [...caption.children].forEach((label, i) => {
    label.textContent = ends[i];
  });
}
