// The page: a photo becomes patches, the seeded model masks them, and both are drawn.

import * as ort from "./ort/ort.wasm.min.mjs";

const SIZE = 224;
const REMOVED = 219; // the grey of `nbgather mask`: 0.86 of 255

const at = (id) => document.getElementById(id);
let session;
let pixels; // RGBA of the square photo
let running = false;
let stale = false; // a control was moved while the model ran

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // a plain server allows no more
ort.env.logLevel = "fatal";

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

// A whole number within limits, as a BigInt; a RangeError tells what came.
function whole(id, what, low, high) {
  const text = at(id).value.trim();
  if (!/^-?\d+$/.test(text) || BigInt(text) < low || BigInt(text) > high)
    throw new RangeError(`The ${what} is “${text}”: a whole number from ${low} to ${high} is needed.`);
  return BigInt(text);
}

function settings() {
  return {
    seed: whole("seed", "seed", -(2n ** 63n), 2n ** 64n - 1n),
    epoch: whole("epoch", "epoch", 0n, 2n ** 32n - 1n),
    ratio: Number(at("ratio").value),
    patch: Number(at("patch").value),
  };
}

// The middle square of a picture, SIZE pixels wide.
function square(picture) {
  const side = Math.min(picture.width, picture.height);
  const context = at("photo").getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, SIZE, SIZE);
  context.imageSmoothingQuality = "high";
  context.drawImage(
    picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, SIZE, SIZE,
  );
  return context.getImageData(0, 0, SIZE, SIZE).data;
}

// Patches in reading order, each p * p * 3 numbers from 0 to 255: nbgather.patchify.
function patchify(rgba, p) {
  const grid = SIZE / p;
  const tokens = new Float32Array(grid * grid * p * p * 3);
  let k = 0;
  for (let h = 0; h < grid; h++)
    for (let w = 0; w < grid; w++)
      for (let y = h * p; y < (h + 1) * p; y++)
        for (let x = w * p; x < (w + 1) * p; x++)
          for (let c = 0; c < 3; c++) tokens[k++] = rgba[(y * SIZE + x) * 4 + c];
  return new ort.Tensor("float32", tokens, [1, grid * grid, p * p * 3]);
}

function drawPatch(image, token, p, left, top) {
  for (let y = 0; y < p; y++)
    for (let x = 0; x < p; x++) {
      const to = ((top + y) * image.width + left + x) * 4;
      for (let c = 0; c < 3; c++) image.data[to + c] = token ? token[(y * p + x) * 3 + c] : REMOVED;
      image.data[to + 3] = 255;
    }
}

// What is left of the photo, from the model's outputs alone.
function drawMasked(made, p) {
  const context = at("masked").getContext("2d");
  const image = context.createImageData(SIZE, SIZE);
  const width = p * p * 3;
  made.ids_restore.data.forEach((rank, l) => {
    const seen = made.mask.data[l] === 0;
    const token = seen && made.x_masked.data.subarray(Number(rank) * width, (Number(rank) + 1) * width);
    const grid = SIZE / p;
    drawPatch(image, token, p, (l % grid) * p, Math.floor(l / grid) * p);
  });
  context.putImageData(image, 0, 0);
}

// The visible patches side by side, by rank.
function drawVisible(made, p) {
  const kept = made.x_masked.dims[1];
  const columns = Math.max(Math.ceil(Math.sqrt(kept)), 1);
  const gap = Math.max(Math.floor(p / 8), 1);
  const canvas = at("visible");
  canvas.width = canvas.height = columns * (p + gap) - gap;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const width = p * p * 3;
  for (let k = 0; k < kept; k++)
    drawPatch(
      image, made.x_masked.data.subarray(k * width, (k + 1) * width), p,
      (k % columns) * (p + gap), Math.floor(k / columns) * (p + gap),
    );
  context.putImageData(image, 0, 0);
}

async function draw() {
  if (!session || !pixels) return;
  if (running) {
    stale = true;
    return;
  }
  running = true;
  try {
    const chosen = settings();
    const x = patchify(pixels, chosen.patch);
    const number = (kind, array) => new ort.Tensor(kind, array, []);
    const begun = performance.now();
    const made = await session.run({
      x,
      seed: number("int64", BigInt64Array.of(BigInt.asIntN(64, chosen.seed))),
      sample_ids: new ort.Tensor("int64", BigInt64Array.of(0n), [1]),
      epoch: number("int64", BigInt64Array.of(chosen.epoch)),
      mask_ratio: number("float64", Float64Array.of(chosen.ratio)),
    });
    const taken = performance.now() - begun;
    drawMasked(made, chosen.patch);
    drawVisible(made, chosen.patch);
    const [tokens, kept] = [x.dims[1], made.x_masked.dims[1]];
    at("patches").textContent = `${tokens} patches of ${chosen.patch} × ${chosen.patch} pixels`;
    at("removed").textContent = `${tokens - kept} patches removed`;
    at("kept").textContent = kept === 1 ? "1 visible patch" : `${kept} visible patches, by rank`;
    const epoch = chosen.epoch ? ` --epoch ${chosen.epoch}` : "";
    const patch = chosen.patch === 16 ? "" : ` --patch ${chosen.patch}`;
    at("command").textContent =
      `nbgather mask PHOTO --ratio ${chosen.ratio} --seed ${chosen.seed}${epoch}${patch}`;
    say(`Computed here in ${taken.toFixed(1)} ms, by onnxruntime-web ${ort.env.versions.web}.`);
    // For whoever tests the page.
    window.shown = { ...chosen, mask: Array.from(made.mask.data), ids: Array.from(made.ids_restore.data, Number) };
  } catch (error) {
    say(error instanceof RangeError ? error.message : `It failed: ${error}`, true);
  } finally {
    running = false;
    if (stale) {
      stale = false;
      draw();
    }
  }
}

async function take(file, name) {
  try {
    const picture = await createImageBitmap(file);
    pixels = square(picture);
    picture.close();
    at("name").textContent = name;
  } catch {
    say(`${name} cannot be read as an image.`, true);
    return;
  }
  await draw();
}

at("file").addEventListener("change", () => at("file").files[0] && take(at("file").files[0], at("file").files[0].name));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) take(file, file.name);
  });
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("controls").addEventListener("input", () => {
  at("ratioShown").textContent = Number(at("ratio").value).toFixed(2);
  draw();
});
at("next").addEventListener("click", () => {
  try {
    const seed = whole("seed", "seed", -(2n ** 63n), 2n ** 64n - 1n);
    at("seed").value = seed === 2n ** 64n - 1n ? 0n : seed + 1n;
  } catch {
    at("seed").value = 0;
  }
  draw();
});

try {
  session = await ort.InferenceSession.create(new URL("./model.onnx", import.meta.url).href, {
    executionProviders: ["wasm"],
    logSeverityLevel: 4,
  });
  say("");
  const sample = await fetch("./sample");
  if (sample.ok) await take(await sample.blob(), "This one comes with matplotlib.");
  else say("Drop a photo to begin.");
} catch (error) {
  say(`The model cannot run in this browser: ${error}`, true);
}
