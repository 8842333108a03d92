/** Changes to the document. Names and keys come from producers, so they are only ever inserted as text. */

import { formatFull, formatValue, isAbbreviated } from "./format.js";

/** Set a node's text if it differs. */
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/**
 * Show a statistic's value, with all its digits on hover. An abbreviated number is read aloud and copied in full.
 */
export function number(node, value, column, prefix = "") {
  const shown = prefix + formatValue(value, column);
  const full = prefix + formatFull(value);
  node.title = full === shown ? "" : full;
  if (!isAbbreviated(value)) {
    text(node, shown);
    return;
  }
  const spans = node.children.length === 2 ? [...node.children] : [0, 1].map(() => document.createElement("span"));
  if (spans[0].parentNode !== node) {
    spans[0].ariaHidden = "true";
    spans[1].className = "unseen";
    node.replaceChildren(...spans);
  }
  text(spans[0], shown);
  text(spans[1], full);
}

/** Set the options [value, label] of a select, reusing its elements, and select `chosen`. */
export function fill(select, options, chosen) {
  options.forEach(([value, label], i) => {
    const option = select.options[i] ?? select.appendChild(document.createElement("option"));
    if (option.value !== value) option.value = value;
    text(option, label);
  });
  while (select.options.length > options.length) select.lastChild.remove();
  if (select.value !== chosen) select.value = chosen;
  select.disabled = options.length === 0;
}
