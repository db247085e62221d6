// node web_check.mjs FOLDER CHROMIUM [OPTIONS]: golden vectors in a browser, from a plain static
// server. OPTIONS is as node_check.mjs has it, of a bundle of onnxruntime-web.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { withPage } from "./chromium.mjs";
import { report } from "./golden.mjs";

const [golden, executablePath, text] = process.argv.slice(2);
const { result: file, ...asked } = JSON.parse(text ?? "{}");
const here = path.dirname(fileURLToPath(import.meta.url));
const SECONDS_FOR_A_CASE = 60;
const types = {
  ".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm",
  ".json": "application/json",
};

const server = http.createServer((request, response) => {
  const name = path.normalize(decodeURIComponent(request.url.split("?")[0]));
  const file = name.startsWith("/golden/")
    ? path.join(golden, name.slice("/golden/".length))
    : path.join(here, name);
  if (!fs.existsSync(file) || fs.statSync(file).isDirectory()) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { "Content-Type": types[path.extname(file)] ?? "application/octet-stream" });
  fs.createReadStream(file).pipe(response);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));

let good = false;
try {
  good = await withPage(executablePath, async (page, version) => {
    const made = { outcomes: [] };
    let stalled;
    const alive = (stop) => {
      clearTimeout(stalled);
      stalled = setTimeout(stop, SECONDS_FOR_A_CASE * 1000);
    };
    const ended = new Promise((resolve) => {
      const stop = () => resolve({ fatal: `no answer within ${SECONDS_FOR_A_CASE} s` });
      alive(stop);
      page.exposeFunction("tell", (version, outcome) => {
        made.version = version;
        made.outcomes.push(outcome);
        if (file) fs.writeFileSync(file, JSON.stringify(made));
        alive(stop);
      }).then(() => page.goto(`http://127.0.0.1:${server.address().port}/page.html?${new URLSearchParams(asked)}`))
        .then(() => page.waitForFunction(() => window.result !== undefined, null, { timeout: 0 }))
        .then(() => page.evaluate(() => window.result))
        .then(resolve, (error) => resolve({ fatal: String(error) }));
    });
    const result = await ended;
    clearTimeout(stalled);
    return report(`onnxruntime-web ${made.version} in ${version}`, result) || Boolean(file && !result.fatal);
  }, asked.provider === "webgpu");
} finally {
  server.close();
}
process.exit(good ? 0 : 1);
