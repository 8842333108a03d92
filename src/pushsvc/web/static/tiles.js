/** Tiles with one big number each. */

import { number, text } from "./dom.js";

const LONG = 8;

/** Draw `tiles`, each [name, label, value, note] with an optional note, in a description list. */
export function drawTiles(list, tiles) {
  while (list.children.length > tiles.length) list.lastChild.remove();
  tiles.forEach(([name, label, value, note = ""], i) => {
    const tile = list.children[i] ?? list.appendChild(emptyTile());
    const [term, shown] = tile.children;
    const [labelled, noted] = term.children;
    tile.dataset.tile = name;
    text(labelled, label);
    text(noted, note);
    term.title = label;
    number(shown, value, name);
    shown.dataset.value = value ?? "";
    shown.classList.toggle("long", (shown.firstElementChild ?? shown).textContent.length > LONG);
  });
}

function emptyTile() {
  const tile = document.createElement("div");
  tile.className = "tile";
  const term = document.createElement("dt");
  term.append(document.createElement("span"), document.createElement("small"));
  tile.append(term, document.createElement("dd"));
  return tile;
}
