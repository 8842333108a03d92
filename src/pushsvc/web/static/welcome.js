/** The view before the first event: the command that publishes one. */

import { text } from "./dom.js";

const TOPIC = "hello";
const EVENT = '{"key": "pizza", "rating": 4.5}';
const find = (id) => document.getElementById(id);

/** Show the command for a topic, or for an example topic if none is selected. */
export function drawWelcome(topic) {
  text(find("welcome-title"), topic === null ? "Waiting for the first event" : `Waiting for the first event in ${topic}`);
  text(find("command"), `curl ${new URL(`v1/topics/${topic ?? TOPIC}/events`, document.baseURI)} -d '${EVENT}'`);
}

export async function copyCommand() {
  try {
    await navigator.clipboard.writeText(find("command").textContent);
    text(find("copy"), "Copied");
  } catch {
    // Without a secure context there is no clipboard: select the command so that the visitor can copy it.
    getSelection().selectAllChildren(find("command"));
    text(find("copy"), "Press Ctrl-C");
  }
  setTimeout(() => text(find("copy"), "Copy"), 2_000);
}
