/** Tiles with one big number each. */

import { text } from "./dom.js";
import { formatValue } from "./format.js";

/** Draw `tiles`, each [name, label, value], in a description list. */
export function drawTiles(list, tiles) {
  while (list.children.length > tiles.length) list.lastChild.remove();
  tiles.forEach(([name, label, value], i) => {
    const tile = list.children[i] ?? list.appendChild(emptyTile());
    const [term, number] = tile.children;
    tile.dataset.tile = name;
    text(term, label);
    term.title = label;
    text(number, formatValue(value, name));
    number.dataset.value = value ?? "";
  });
}

function emptyTile() {
  const tile = document.createElement("div");
  tile.className = "tile";
  tile.append(document.createElement("dt"), document.createElement("dd"));
  return tile;
}
