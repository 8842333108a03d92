// Reads a stream with a client of Node and prints a JSON line for each message: watch.js CLIENT URL [LAST-EVENT-ID].
import { EventSource } from "eventsource";

const [name, url, last] = process.argv.slice(2);
const headers = last ? { "Last-Event-ID": last } : {};
const show = ({ id = "", event = "", data = "" }) => console.log(JSON.stringify({ id, event, data }));

const clients = {
  eventsource() {
    const withHeaders = (input, init) => fetch(input, { ...init, headers: { ...headers, ...init.headers } });
    const source = new EventSource(url, { fetch: withHeaders });
    for (const type of ["message", "snapshot", "update"]) {
      source.addEventListener(type, (event) => show({ id: event.lastEventId, event: event.type, data: event.data }));
    }
  },

  async fetch() {
    const response = await fetch(url, { headers: { Accept: "text/event-stream", ...headers } });
    const message = { id: "", event: "", data: "" };
    let rest = "";
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
        if (field in message) message[field] = value;
        if (line === "") {
          show(message);
          Object.assign(message, { event: "", data: "" });
        }
      }
    }
  },

  async "fetch-event-source"() {
    // It is made for pages: these are the parts of a page that it uses.
    globalThis.window = globalThis;
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = await import("@microsoft/fetch-event-source");
    await fetchEventSource(url, { headers, onmessage: show });
  },
};

await clients[name]();
