// node node_check.mjs FOLDER: golden vectors in Node.
import fs from "node:fs/promises";
import path from "node:path";
import ort from "onnxruntime-node";
import { report, runGolden } from "./golden.mjs";

const folder = process.argv[2];
const load = async (name) => new Uint8Array(await fs.readFile(path.join(folder, name)));
const result = await runGolden(ort, load, { logSeverityLevel: 4 });
process.exit(report(`onnxruntime-node ${ort.env.versions.node}`, result) ? 0 : 1);
