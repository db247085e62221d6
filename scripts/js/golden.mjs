// Run golden vectors by any onnxruntime in JavaScript; `load(name)` gives a file's bytes.

const KINDS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };

export async function runGolden(ort, load, options) {
  const data = await load("golden.bin");
  const cases = JSON.parse(new TextDecoder().decode(await load("golden.json")));
  const sessions = {};
  const problems = [];
  for (const [number, one] of cases.entries()) {
    sessions[one.model] ??= await ort.InferenceSession.create(await load(one.model), options);
    const problem = await runCase(ort, sessions[one.model], one, data);
    if (problem) problems.push(`case ${number}, ${one.model}: ${problem}`);
  }
  return { cases: cases.length, models: Object.keys(sessions).length, problems };
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
    return one.fails ? null : `failed: ${error.message ?? error}`;
  }
  if (one.fails) return "took what it must refuse";
  for (const [name, place] of Object.entries(one.outputs)) {
    const got = made[name];
    if (got.type !== place.dtype) return `${name} is ${got.type}, not ${place.dtype}`;
    if (String(got.dims) !== String(place.shape)) return `${name} is [${got.dims}]`;
    const view = new Uint8Array(got.data.buffer, got.data.byteOffset, got.data.byteLength);
    const want = data.subarray(place.offset, place.offset + place.nbytes);
    if (view.length !== want.length || view.some((byte, k) => byte !== want[k]))
      return `${name} has other bytes`;
  }
  return null;
}

// One line, and whether all was well.
export function report(what, result) {
  const wrong = result.problems?.length ?? 1;
  for (const problem of result.problems ?? [result.fatal]) console.log(problem);
  const right = (result.cases ?? 0) - (result.cases ? wrong : 0);
  console.log(`${what}: ${right} of ${result.cases ?? 0} cases of ${result.models ?? 0} models as they should be`);
  return wrong === 0 && result.cases > 0;
}
