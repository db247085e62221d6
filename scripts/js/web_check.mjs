// node web_check.mjs FOLDER CHROMIUM: golden vectors in a browser, from a plain static server.
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
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

const profile = fs.mkdtempSync(path.join(os.tmpdir(), "nbgather-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
let good = false;
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.log(`page: ${error}`));
  await page.goto(`http://127.0.0.1:${server.address().port}/page.html`);
  await page.waitForFunction(() => window.result !== undefined, null, { timeout: 240_000 });
  const result = await page.evaluate(() => window.result);
  good = report(`onnxruntime-web ${result.version} in ${browser.browser()?.version() ?? "Chromium"}`, result);
} finally {
  await browser.close();
  server.close();
  fs.rmSync(profile, { recursive: true, force: true });
}
process.exit(good ? 0 : 1);
