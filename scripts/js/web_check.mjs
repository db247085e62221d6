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
    await page.goto(`http://127.0.0.1:${server.address().port}/page.html?${new URLSearchParams(asked)}`);
    await page.waitForFunction(() => window.result !== undefined, null, { timeout: file ? 1_500_000 : 240_000 })
      .catch((error) => console.log(String(error)));
    const result = await page.evaluate(() => window.result ?? { fatal: "no result in time" });
    const made = await page.evaluate(() => ({ version: window.version, adapter: window.adapter, outcomes: window.outcomes }));
    if (file) fs.writeFileSync(file, JSON.stringify(made));
    return report(`onnxruntime-web ${made.version} in ${version}`, result) || Boolean(file && !result.fatal);
  }, asked.provider === "webgpu");
} finally {
  server.close();
}
process.exit(good ? 0 : 1);
