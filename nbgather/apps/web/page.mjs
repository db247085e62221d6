// The page: a photo becomes patches, the seeded model masks them, and both are drawn.

import * as ort from "./ort/ort.wasm.min.mjs";

const SIZE = 224;
const REMOVED = 219; // the grey of `nbgather mask`: 0.86 of 255

const element = (id) => document.getElementById(id);
let session;
let pixels; // RGBA of the square photo
let running = false;
let stale = false; // a control was moved while the model ran

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // a plain server allows no more
ort.env.logLevel = "fatal";

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}

// A whole number within limits, as a BigInt; a RangeError tells what came.
function whole(id, what, low, high) {
  const text = element(id).value.trim();
  if (!/^-?\d+$/.test(text) || BigInt(text) < low || BigInt(text) > high)
    throw new RangeError(`The ${what} is “${text}”: a whole number from ${low} to ${high} is needed.`);
  return BigInt(text);
}

function settings() {
  return {
    seed: whole("seed", "seed", -(2n ** 63n), 2n ** 64n - 1n),
    epoch: whole("epoch", "epoch", 0n, 2n ** 32n - 1n),
    ratio: Number(element("ratio").value),
    patch: Number(element("patch").value),
  };
}

// The middle square of a picture, SIZE pixels wide.
function square(picture) {
  const side = Math.min(picture.width, picture.height);
  const context = element("photo").getContext("2d", { willReadFrequently: true });
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
function drawMasked(outputs, p) {
  const context = element("masked").getContext("2d");
  const image = context.createImageData(SIZE, SIZE);
  const width = p * p * 3;
  outputs.ids_restore.data.forEach((rank, l) => {
    const seen = outputs.mask.data[l] === 0;
    const token = seen && outputs.x_masked.data.subarray(Number(rank) * width, (Number(rank) + 1) * width);
    const grid = SIZE / p;
    drawPatch(image, token, p, (l % grid) * p, Math.floor(l / grid) * p);
  });
  context.putImageData(image, 0, 0);
}

// The visible patches side by side, by rank.
function drawVisible(outputs, p) {
  const kept = outputs.x_masked.dims[1];
  const columns = Math.max(Math.ceil(Math.sqrt(kept)), 1);
  const gap = Math.max(Math.floor(p / 8), 1);
  const canvas = element("visible");
  canvas.width = canvas.height = columns * (p + gap) - gap;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const width = p * p * 3;
  for (let k = 0; k < kept; k++)
    drawPatch(
      image, outputs.x_masked.data.subarray(k * width, (k + 1) * width), p,
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
    const word = (value, from) => Number(BigInt.asIntN(32, value >> BigInt(from)));
    const begun = performance.now();
    const outputs = await session.run({
      x,
      seed_words: new ort.Tensor("int32", Int32Array.of(word(chosen.seed, 0), word(chosen.seed, 32)), [2]),
      sample_id_words: new ort.Tensor("int32", Int32Array.of(0, 0), [1, 2]),
      epoch_word: number("int32", Int32Array.of(word(chosen.epoch, 0))),
      mask_ratio: number("float64", Float64Array.of(chosen.ratio)),
    });
    const taken = performance.now() - begun;
    drawMasked(outputs, chosen.patch);
    drawVisible(outputs, chosen.patch);
    const [tokens, kept] = [x.dims[1], outputs.x_masked.dims[1]];
    element("patches").textContent = `${tokens} patches of ${chosen.patch} × ${chosen.patch} pixels`;
    element("removed").textContent = `${tokens - kept} patches removed`;
    element("kept").textContent = kept === 1 ? "1 visible patch" : `${kept} visible patches, by rank`;
    const epoch = chosen.epoch ? ` --epoch ${chosen.epoch}` : "";
    const patch = chosen.patch === 16 ? "" : ` --patch ${chosen.patch}`;
    element("command").textContent =
      `nbgather mask PHOTO --ratio ${chosen.ratio} --seed ${chosen.seed}${epoch}${patch}`;
    say(`Computed here in ${taken.toFixed(1)} ms, by onnxruntime-web ${ort.env.versions.web}.`);
    // For whoever tests the page.
    window.shown = {
      ...chosen, mask: Array.from(outputs.mask.data), ids: Array.from(outputs.ids_restore.data, Number),
    };
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
    element("name").textContent = name;
  } catch {
    say(`${name} cannot be read as an image.`, true);
    return;
  }
  await draw();
}

element("file").addEventListener("change", () => {
  const [file] = element("file").files;
  if (file) take(file, file.name);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) take(file, file.name);
  });
element("controls").addEventListener("submit", (event) => event.preventDefault());
element("controls").addEventListener("input", () => {
  element("ratioShown").textContent = Number(element("ratio").value).toFixed(2);
  draw();
});
element("next").addEventListener("click", () => {
  try {
    const seed = whole("seed", "seed", -(2n ** 63n), 2n ** 64n - 1n);
    element("seed").value = seed === 2n ** 64n - 1n ? 0n : seed + 1n;
  } catch {
    element("seed").value = 0;
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
