/** The sign-in: shown when the server refuses a subscription for want of a token. The server keeps the token in a cookie. */

import { text } from "./dom.js";

const ADDRESS = "session";
const find = (id) => document.getElementById(id);

export class SignIn {
  #onSession;
  #changed;
  // Cookies are those of all tabs: when one signs in or out, so do the others.
  #others = new BroadcastChannel(`pushsvc session ${new URL(ADDRESS, document.baseURI)}`);

  /**
   * @param {function(?string): void} onSession called with the id of the session, null if nobody is signed in
   * @param {function(): void} changed called after the visitor has signed in or out
   */
  constructor(onSession, changed) {
    this.#onSession = onSession;
    this.#changed = changed;
    this.#others.onmessage = () => this.#begin();
    find("sign-in").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#signIn();
    });
    find("enter").addEventListener("click", () => this.#show(""));
    find("leave").addEventListener("click", () => this.#signOut());
  }

  /** Show who is signed in. After a `refused` request ask for a token, unless there was another reason. */
  async check(refused) {
    let session;
    try {
      session = await ask("GET");
    } catch {
      this.#onSession("unknown");
      return; // the page tells that the server cannot be reached
    }
    this.#onSession(session.id);
    this.#draw(session);
    // The streams try again and again: what the form says of the last attempt stays.
    if (!refused || !session.required || !find("sign-in").hidden) return;
    if (!session.signed_in) this.#show("");
    else if (!session.reads) this.#show("This token grants no topic to read.");
  }

  #draw({ required, signed_in: signedIn, sub }) {
    find("enter").hidden = !required || signedIn || !find("sign-in").hidden;
    find("leave").hidden = !signedIn;
    find("leave").title = sub === null ? "" : `Signed in as ${sub}`;
  }

  #show(problem) {
    const begins = find("sign-in").hidden;
    find("sign-in").hidden = false;
    find("enter").hidden = true;
    text(find("sign-in-problem"), problem);
    if (begins) find("token").focus();
  }

  async #signIn() {
    const token = find("token").value.trim();
    let problem = "";
    text(find("sign-in-problem"), problem); // what the last attempt said is not the answer to this one
    try {
      await ask("POST", { token });
      // A browser drops the cookie of a host without TLS, unless that is this machine.
      if (!(await ask("GET")).signed_in) problem = "The browser did not keep the session: signing in needs HTTPS.";
    } catch (error) {
      problem = error.message;
    }
    find("token").value = "";
    if (problem) {
      this.#show(problem);
      return;
    }
    this.#tell();
  }

  async #signOut() {
    try {
      await ask("DELETE");
    } catch {
      return; // still signed in, as the page shows
    }
    this.#tell();
  }

  #tell() {
    this.#others.postMessage("changed");
    this.#begin();
  }

  #begin() {
    find("sign-in").hidden = true;
    this.#changed();
    this.check(false);
  }
}

/** Resolve to the session after a request, or reject with a reason for the visitor. */
async function ask(method, body) {
  const init = { method, headers: { Accept: "application/json" }, cache: "no-store" };
  if (body) Object.assign(init, { body: JSON.stringify(body) }).headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(ADDRESS, init);
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(`${found.title ?? `Error ${answer.status}`}: ${found.detail ?? ""}`);
  return found;
}
