// A browser for tests, with a profile of its own and nothing running in the background.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

export async function withPage(executablePath, work, webgpu = false) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "nbgather-chromium-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    viewport: { width: 1100, height: 800 },
    args: [
      "--headless", "--no-sandbox",
      // A machine without a GPU has an adapter in software.
      ...(webgpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu"]),
      "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
  try {
    const page = await browser.newPage();
    page.on("pageerror", (error) => console.log(`page: ${error}`));
    return await work(page, browser.browser()?.version() ?? "Chromium");
  } finally {
    await browser.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
}
