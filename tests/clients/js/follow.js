/** Follow events, statistics and newest events with the client; each line of stdin asks for what is known. */

import { createInterface } from "node:readline";

const [, , script, url, topic, token] = process.argv;
const { connect } = await import(script);
const calls = [];
const tokens = token?.split(" ") ?? [];

/** Give the next of some tokens: the last again and again; "fail" throws, "page" is what a login page would be. */
function give(refused) {
  calls.push(refused);
  const next = tokens.length > 1 ? tokens.shift() : tokens[0];
  if (next === "fail") throw new Error("no token now");
  return next === "page" ? "<!doctype html>\n<title>Sign in</title>\n" : next;
}

const push = connect(url, token ? { token: give } : {});
const seen = [];
const told = [];
const events = push.events(topic, {}, (event, name) => (name === "event" ? seen.push(event.n) : told.push(name)));
const unfiltered = [];
push.events(topic, (event, name) => name === "event" && unfiltered.push(event.n));
const stats = push.stats(topic, { window: "15m" });
const latest = push.latest(`job.${topic}`);
const refused = push.stats(topic, { window: "7m" });
const many = [];

createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "drop") refused.close();
  if (line === "close") push.close();
  if (line === "many") for (let n = 0; n < 50; n++) many.push(push.events(topic, { key: `${n}${"k".repeat(190)}` }));
  const answer = {
    state: push.state, unfiltered, seen, told, calls, rows: stats.value.map(({ key, field, count, sum }) => [key, field, count, sum]),
    one: stats.get("a", "n")?.count ?? null, latest: latest.value.map(({ key, n }) => [key, n]),
    error: refused.error && [refused.error.status, refused.error.message], same: stats.value === stats.value,
    many: many.map((one) => one.error?.status ?? null),
  };
  console.log(JSON.stringify(answer));
});
