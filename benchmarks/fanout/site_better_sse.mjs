// better-sse as its manual shows: node site_better_sse.mjs PORT, with NODE_MODULES naming where it is installed.
import {createServer} from "node:http";
import {createRequire} from "node:module";

const {createChannel, createSession} = createRequire(process.env.NODE_MODULES + "/")("better-sse");
const channel = createChannel();

createServer(async (request, response) => {
  if (request.method === "POST") {
    let body = "";
    for await (const part of request) body += part;
    channel.broadcast(JSON.parse(body));
    response.writeHead(202, {"Content-Length": 0}).end();
  } else {
    channel.register(await createSession(request, response));
  }
}).listen({port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096});
