// Run golden vectors by any onnxruntime in JavaScript; `load(name)` gives a file's bytes.

const KINDS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array };

// What came of each case from number `from` on: ["equal"], ["flushed"] where subnormal scores were
// taken for 0, or ["refused" | "wrong" | "taken", why]; also handed to `tell` one by one. "equal" is
// an error where one is due, and "taken" is none. With `fresh` a session that failed is not used again:
// in the WebGPU bundle it never answers.
export async function runGolden(ort, load, options, { from = 0, tell = () => {}, fresh = false } = {}) {
  const data = await load("golden.bin");
  const cases = JSON.parse(new TextDecoder().decode(await load("golden.json")));
  const outcomes = [];
  let model, session, refused;
  for (const one of cases.slice(from)) {
    if (one.model !== model) {
      model = one.model;
      session = refused = undefined;
      try {
        session = await ort.InferenceSession.create(await load(model), options);
      } catch (error) {
        refused = `not loaded: ${error.message ?? error}`;
      }
    }
    const outcome = refused ? ["refused", refused] : await runCase(ort, session, one, data);
    outcomes.push(outcome);
    await tell(outcome);
    if (fresh && !refused && (one.fails || outcome[0] === "refused")) model = undefined;
  }
  return { outcomes, cases: cases.map((one) => one.model) };
}

async function runCase(ort, session, one, data) {
  const feeds = {};
  for (const [name, place] of Object.entries(one.inputs)) {
    const bytes = data.slice(place.offset, place.offset + place.nbytes);
    feeds[name] = new ort.Tensor(place.dtype, new KINDS[place.dtype](bytes.buffer), place.shape);
  }
  let made;
  try {
    made = await session.run(feeds);
  } catch (error) {
    return one.fails ? ["equal"] : ["refused", `failed: ${error.message ?? error}`];
  }
  if (one.fails) return ["taken", "took what it must refuse"];
  const items = {};
  for (const name of Object.keys(one.outputs)) items[name] = await made[name].getData();
  const difference = firstDifference(made, items, one.outputs, data);
  if (!difference) return ["equal"];
  // Runtimes that take subnormal scores for 0 do so knowingly.
  if (one.flushed && !firstDifference(made, items, one.flushed, data)) return ["flushed"];
  return ["wrong", difference];
}

function firstDifference(made, items, outputs, data) {
  for (const [name, place] of Object.entries(outputs)) {
    if (made[name].type !== place.dtype) return `${name} is ${made[name].type}, not ${place.dtype}`;
    if (String(made[name].dims) !== String(place.shape)) return `${name} is [${made[name].dims}]`;
    const view = new Uint8Array(items[name].buffer, items[name].byteOffset, items[name].byteLength);
    const want = data.subarray(place.offset, place.offset + place.nbytes);
    if (view.length !== want.length || view.some((byte, k) => byte !== want[k]))
      return `${name} has other bytes`;
  }
  return null;
}

// One line, and whether all was well.
export function report(what, result) {
  if (result.fatal) {
    console.log(`${what}: ${result.fatal}`);
    return false;
  }
  const wrong = result.outcomes.flatMap(([kind, why], k) => (kind === "equal" ? [] : [[k, why]]));
  for (const [k, why] of wrong) console.log(`case ${k}, ${result.cases[k]}: ${why}`);
  const count = result.outcomes.length;
  console.log(`${what}: ${count - wrong.length} of ${count} cases of ${new Set(result.cases).size} models as they should be`);
  return wrong.length === 0 && count > 0;
}
