// node demo_check.mjs URL EXPECTED PHOTO CHROMIUM PICTURE: the page of `nbgather web`, as a visitor
// uses it. EXPECTED holds settings and the masks that nbgather gives for them; PICTURE is a
// screenshot to write.
import fs from "node:fs";
import { withPage } from "./chromium.mjs";

const [url, expected, photo, executablePath, picture] = process.argv.slice(2);
const cases = JSON.parse(fs.readFileSync(expected, "utf8"));
const problems = [];
const check = (right, what) => right || problems.push(what);
const GREY = 219;

const shown = (page) => page.evaluate(() => window.shown && { ...window.shown, seed: String(window.shown.seed), epoch: String(window.shown.epoch) });

async function until(page, what, condition, argument) {
  try {
    await page.waitForFunction(condition, argument, { timeout: 60_000 });
  } catch {
    problems.push(`${what}: it never came; the page says: ${await page.locator("#status").textContent()}`);
  }
}

// Is every patch of the masked canvas grey where the mask says so, and the photo's where not?
const canvasIsRight = (page) => page.evaluate((grey) => {
  const { mask, patch } = window.shown;
  const read = (id) => document.getElementById(id).getContext("2d").getImageData(0, 0, 224, 224).data;
  const [photo, masked] = [read("photo"), read("masked")];
  const grid = 224 / patch;
  for (let y = 0; y < 224; y++)
    for (let x = 0; x < 224; x++)
      for (let c = 0; c < 3; c++) {
        const gone = mask[Math.floor(y / patch) * grid + Math.floor(x / patch)] === 1;
        const k = (y * 224 + x) * 4 + c;
        if (masked[k] !== (gone ? grey : photo[k])) return `pixel ${x}, ${y} of the mask's picture is wrong`;
      }
  return null;
}, GREY);

await withPage(executablePath, async (page) => {
  const foreign = [];
  page.on("request", (request) => request.url().startsWith(url) || request.url().startsWith("data:") || request.url().startsWith("blob:") || foreign.push(request.url()));
  const refused = [];
  page.on("console", (message) => /Content Security Policy/.test(message.text()) && refused.push(message.text()));
  await page.goto(url);
  await until(page, "the sample photo", () => window.shown);
  await page.evaluate(() => { window.shown = undefined; });
  await page.setInputFiles("#file", photo);
  await until(page, "the photo", () => window.shown);
  for (const one of cases) {
    await page.evaluate(() => { window.shown = undefined; });
    await page.selectOption("#patch", String(one.patch));
    await page.locator("#ratio").fill(String(one.ratio));
    await page.locator("#epoch").fill(String(one.epoch));
    await page.locator("#seed").fill(one.seed);
    const name = `seed ${one.seed}, epoch ${one.epoch}, ratio ${one.ratio}, patches of ${one.patch}`;
    await until(page, name, (w) => window.shown && String(window.shown.seed) === w.seed && String(window.shown.epoch) === String(w.epoch) && window.shown.ratio === w.ratio && window.shown.patch === w.patch, one);
    const got = await shown(page);
    check(JSON.stringify(got?.mask) === JSON.stringify(one.mask), `${name}: another mask than nbgather's`);
    check(JSON.stringify(got?.ids) === JSON.stringify(one.ids), `${name}: other ids_restore than nbgather's`);
    const wrong = await canvasIsRight(page);
    check(!wrong, `${name}: ${wrong}`);
  }
  for (const seed of ["", "1.5", "cat", String(2n ** 64n), String(-(2n ** 63n) - 1n)]) {
    await page.locator("#seed").fill(seed);
    await until(page, `seed “${seed}” refused`, () => document.getElementById("status").classList.contains("wrong"));
    await page.locator("#seed").fill("3");
    await until(page, "a good seed after it", () => !document.getElementById("status").classList.contains("wrong"));
  }
  await page.locator("#next").click();
  await until(page, "the next seed", () => String(window.shown.seed) === "4");
  // A dropped file, and one that is no image.
  for (const [text, name, wrong] of [["no image", "notes.txt", true], [null, "dropped.jpg", false]]) {
    await page.evaluate(async ([bytes, words, called]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([words ?? Uint8Array.from(bytes)], called));
      window.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }, [[...fs.readFileSync(photo)], text, name]);
    await until(page, name, ([bad, called]) => bad
      ? document.getElementById("status").classList.contains("wrong")
      : document.getElementById("name").textContent === called, [wrong, name]);
  }
  await until(page, "the dropped photo's mask", () => !document.getElementById("status").classList.contains("wrong"));
  // The slider held and drawn about: the last place counts.
  for (const ratio of ["0.1", "0.9", "0.3", "0.6"]) await page.locator("#ratio").fill(ratio);
  await until(page, "the last place of the slider", () => window.shown.ratio === 0.6);
  await page.screenshot({ path: picture, fullPage: true });
  check(!foreign.length, `asked for elsewhere: ${foreign}`);
  check(!refused.length, `the page's own policy refused: ${refused}`);
});
for (const problem of problems) console.log(problem);
console.log(`the page of nbgather web: ${cases.length} masks and ${problems.length} problems; screenshot ${picture}`);
process.exit(problems.length ? 1 : 0);
