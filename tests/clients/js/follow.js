/** Follow events, statistics and newest events with the client; each line of stdin asks for what is known. */

import { createInterface } from "node:readline";

const [, , script, url, topic, token] = process.argv;
const { connect } = await import(script);
const calls = [];
const tokens = token?.split(" ") ?? [];

/** Give the next of some tokens: the last again and again; "fail" throws. */
function give(refused) {
  calls.push(refused);
  const next = tokens.length > 1 ? tokens.shift() : tokens[0];
  if (next === "fail") throw new Error("no token now");
  return next;
}

const push = connect(url, token ? { token: give } : {});
const seen = [];
const told = [];
const events = push.events(topic, {}, (event, name) => (name === "event" ? seen.push(event.n) : told.push(name)));
const stats = push.stats(topic, { window: "15m" });
const latest = push.latest(`job.${topic}`);
const refused = push.stats(topic, { window: "7m" });

createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "drop") refused.close();
  if (line === "close") push.close();
  const answer = {
    state: push.state, seen, told, calls, rows: stats.value.map(({ key, field, count, sum }) => [key, field, count, sum]),
    one: stats.get("a", "n")?.count ?? null, latest: latest.value.map(({ key, n }) => [key, n]),
    error: refused.error && [refused.error.status, refused.error.message], same: stats.value === stats.value,
  };
  console.log(JSON.stringify(answer));
});
