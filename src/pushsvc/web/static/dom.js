/** Changes to the document. Names and keys come from producers, so they are only ever inserted as text. */

/** Set a node's text if it differs. */
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
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
