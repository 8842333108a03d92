/** Small changes to the document. Names and keys are other people's text: it only ever becomes text. */

/** Set a node's text, touching the document only when it differs. */
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/** Give a select the options [value, label], reusing those it has, and let it show `chosen`. */
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
