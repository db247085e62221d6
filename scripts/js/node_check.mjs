// node node_check.mjs FOLDER [OPTIONS]: golden vectors in Node. OPTIONS is JSON: `bundle`, of
// onnxruntime-web instead of onnxruntime-node; its `provider`; the case to begin `from`; a file for
// the `result`, which is written after each case, for a process may end within the next.
import fs from "node:fs/promises";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { report, runGolden } from "./golden.mjs";

const [folder, text] = process.argv.slice(2);
const { bundle = "onnxruntime-node", provider = "cpu", from = 0, result: file } = JSON.parse(text ?? "{}");
const web = bundle !== "onnxruntime-node";
const module = await import(web ? new URL(`./node_modules/onnxruntime-web/dist/${bundle}`, import.meta.url) : bundle);
const ort = module.default?.InferenceSession ? module.default : module;
if (web) ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";
const version = web ? ort.env.versions.web : ort.env.versions.node;
const load = async (name) => new Uint8Array(await fs.readFile(path.join(folder, name)));
const outcomes = [];
const keep = () => file && writeFileSync(file, JSON.stringify({ version, outcomes }));
let stalled;
const tell = (outcome) => {
  if (outcome) outcomes.push(outcome);
  keep();
  clearTimeout(stalled);
  stalled = setTimeout(() => (console.log("no answer within 60 s"), process.exit(1)), 60_000);
};
tell();
const fresh = bundle.includes("webgpu");
const result = await runGolden(ort, load, { executionProviders: [provider], logSeverityLevel: 4 }, { from, tell, fresh });
keep();
const good = report(`${web ? "onnxruntime-web" : bundle} ${version}`, result);
// An exit would wait until all of the WebGPU bundle is compiled, for a minute and more.
if (file) process.kill(process.pid, "SIGKILL");
process.exit(good ? 0 : 1);
