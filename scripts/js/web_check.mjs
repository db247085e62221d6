// node web_check.mjs FOLDER CHROMIUM: golden vectors in a browser, from a plain static server.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { withPage } from "./chromium.mjs";
import { report } from "./golden.mjs";

const [golden, executablePath] = process.argv.slice(2);
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
    await page.goto(`http://127.0.0.1:${server.address().port}/page.html`);
    await page.waitForFunction(() => window.result !== undefined, null, { timeout: 240_000 });
    const result = await page.evaluate(() => window.result);
    return report(`onnxruntime-web ${result.version} in ${version}`, result);
  });
} finally {
  server.close();
}
process.exit(good ? 0 : 1);
