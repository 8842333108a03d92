/**
 * A text box with a list of matches: the editable combobox of the WAI-ARIA Authoring Practices. The focus stays in the
 * text box; `aria-activedescendant` names the active option.
 */

import { text } from "./dom.js";

const TYPING_PAUSE = 120;

export class Combobox {
  #input;
  #button;
  #popup;
  #list;
  #status;
  #source;
  #chosen = null;
  /** The text that the options must contain: what was typed, and nothing before that. */
  #query = "";
  #options = [];
  #active = -1;
  #open = false;
  #search = null;
  #timer = 0;
  #takeFirst = false;

  /**
   * @param {HTMLElement} box with an input of role combobox, a button, and an element of class popup that has an element
   *   of role listbox and one of role status
   * @param {object} source `find(text, signal)` resolves to `{options, total}`, each option being `{value, note}`;
   *   `describe(options, total, text)` is the line under the list; `failed` replaces it if `find` rejects;
   *   `choose(value)` is called with the visitor's choice
   */
  constructor(box, source) {
    this.#input = box.querySelector("[role=combobox]");
    this.#button = box.querySelector("button");
    this.#popup = box.querySelector(".popup");
    this.#list = box.querySelector("[role=listbox]");
    this.#status = box.querySelector("[role=status]");
    this.#source = source;
    this.#input.addEventListener("click", () => this.#show());
    this.#input.addEventListener("input", () => this.#type());
    this.#input.addEventListener("keydown", (event) => this.#press(event));
    this.#input.addEventListener("blur", () => this.#hide());
    this.#button.addEventListener("click", () => this.#toggle());
    // A press on the list or the button must not take the focus from the text box: that would close the list.
    for (const part of [this.#popup, this.#button]) part.addEventListener("mousedown", (event) => event.preventDefault());
    this.#list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.#choose(this.#options[[...this.#list.children].indexOf(option)]);
    });
  }

  /** Show `value` as chosen; a text that is being typed stays. */
  set(value) {
    this.#chosen = value;
    if (this.#open) return;
    const shown = value ?? "";
    if (this.#input.value !== shown) this.#input.value = shown;
    this.#input.title = shown;
  }

  /** Find the options of an open list again. */
  refresh() {
    if (this.#open && this.#timer === 0) this.#find(this.#query);
  }

  #type() {
    this.#query = this.#input.value.trim();
    this.#takeFirst = false;
    // What was found for an earlier text must not be chosen for this one.
    this.#search?.abort();
    this.#search = null;
    this.#active = -1;
    this.#markActive();
    this.#expand();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#find(this.#query), TYPING_PAUSE);
  }

  #press(event) {
    if (event.isComposing || event.ctrlKey || event.metaKey) return;
    const last = this.#options.length - 1;
    const moves = {
      ArrowDown: () => (this.#active >= last ? 0 : this.#active + 1),
      ArrowUp: () => (this.#active <= 0 ? last : this.#active - 1),
      Home: () => 0,
      End: () => last,
    };
    if (event.key === "Escape" && this.#open) {
      this.#hide();
    } else if (event.key === "Enter") {
      this.#enter();
    } else if (this.#open && event.key in moves) {
      this.#activate(moves[event.key]());
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      this.#show();
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Choose the active option; while the typed text is being looked up, the first one as soon as it is known. */
  #enter() {
    if (!this.#open) return;
    if (this.#active >= 0) this.#choose(this.#options[this.#active]);
    else this.#takeFirst = this.#timer !== 0 || this.#search !== null;
  }

  #choose(option) {
    this.#chosen = option.value;
    this.#hide();
    this.#source.choose(option.value);
  }

  #toggle() {
    if (this.#open) {
      this.#hide();
    } else {
      this.#input.focus();
      this.#show();
    }
  }

  #show() {
    if (this.#open) return;
    this.#query = "";
    this.#input.select();
    this.#expand();
    this.#find("");
  }

  #expand() {
    this.#open = true;
    this.#popup.hidden = false;
  }

  #hide() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#search?.abort();
    this.#search = null;
    this.#open = this.#takeFirst = false;
    this.#popup.hidden = true;
    this.#draw([], "");
    this.set(this.#chosen);
  }

  async #find(query) {
    this.#timer = 0;
    this.#search?.abort();
    const search = (this.#search = new AbortController());
    let found = { options: [], total: 0 };
    let failed = false;
    try {
      found = await this.#source.find(query, search.signal);
    } catch {
      failed = true;
    }
    if (search !== this.#search) return;
    this.#search = null;
    this.#draw(found.options, failed ? this.#source.failed : this.#source.describe(found.options, found.total, query));
    if (this.#takeFirst && found.options.length > 0) this.#choose(found.options[0]);
    this.#takeFirst = false;
  }

  #draw(options, status) {
    const before = this.#options[this.#active]?.value ?? (this.#query === "" ? this.#chosen : null);
    this.#options = options;
    while (this.#list.children.length > options.length) this.#list.lastChild.remove();
    options.forEach((option, i) => this.#drawOption(this.#list.children[i] ?? this.#added(i), option));
    text(this.#status, status);
    // An empty listbox is not announced well, so it is not shown.
    this.#list.hidden = options.length === 0;
    const expanded = String(this.#open && options.length > 0);
    this.#input.ariaExpanded = expanded;
    this.#button.ariaExpanded = expanded;
    this.#activate(Math.max(options.findIndex(({ value }) => value === before), options.length > 0 ? 0 : -1));
  }

  #added(i) {
    const option = document.createElement("li");
    option.role = "option";
    option.id = `${this.#list.id}-${i}`;
    option.append(document.createElement("span"), document.createElement("small"));
    this.#list.append(option);
    return option;
  }

  #drawOption(node, { value, note }) {
    const [name, remark] = node.children;
    text(name, value);
    text(remark, note);
    node.title = value;
    node.classList.toggle("chosen", value === this.#chosen);
  }

  #activate(index) {
    this.#active = index;
    this.#markActive();
    this.#list.children[index]?.scrollIntoView({ block: "nearest" });
  }

  #markActive() {
    [...this.#list.children].forEach((option, i) => {
      option.ariaSelected = String(i === this.#active);
    });
    const active = this.#list.children[this.#active];
    if (active) this.#input.setAttribute("aria-activedescendant", active.id);
    else this.#input.removeAttribute("aria-activedescendant");
  }
}
