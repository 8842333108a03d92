/** Lists whose items are rows of cells. */

/** Return an element with a text. */
export function element(name, className, content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = content;
  return made;
}

/** Replace the items of a list, unless they are what they were: what has the focus stays. */
export function replaceItems(list, rows) {
  const told = JSON.stringify(rows.map((cells) => cells.map((cell) => [cell.className, cell.textContent])));
  if (list.dataset.told === told) return;
  list.dataset.told = told;
  list.replaceChildren(...rows.map((cells) => {
    const item = document.createElement("li");
    item.append(...cells);
    return item;
  }));
}
