/**
 * Answers in a worker, so that the page stays alive meanwhile: an image's file in, the line of `leanmed predict` out.
 *
 * Messages in are {number, method, given}; out come {number, result}, {number, refused, line}, or {number, failed, lost}.
 */

import { Refused } from "./faults.js";
import { readImage, readsTruly } from "./image.js";
import { KINDS } from "./kinds.js";

const FAMILIAR = "familiar"; // the last output of `model`, of artifacts that tell how familiar an image looks
const REPEATS = 3; // of which the fastest counts

let ort = null;
const opened = new Map(); // artifact's SHA-256 -> {about, sessions}
let looked = null; // what `model` made of the image that was last asked about, so that a prompt costs the rest alone

const METHODS = {
  /** Start ONNX Runtime Web from its two files, whose hashes were checked. */
  async start({ script, wasm }) {
    if (!(await readsTruly())) throw new Refused("altered");
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    ort = await import(url);
    URL.revokeObjectURL(url);
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = "error";
  },

  /** Open an artifact's graphs, whose hashes were checked. */
  async open({ about, graphs }) {
    const sessions = {};
    for (const [name, graph] of Object.entries(graphs)) {
      sessions[name] = await ort.InferenceSession.create(new Uint8Array(graph), { executionProviders: ["wasm"] });
    }
    opened.set(about.sha256, { about, sessions });
  },

  /** Forget the image that was last asked about. */
  async forget() {
    looked = null;
  },

  /** Forget an artifact that is not used any more. */
  async close({ sha256 }) {
    const { sessions } = opened.get(sha256);
    opened.delete(sha256);
    if (looked?.sha256 === sha256) looked = null;
    for (const session of Object.values(sessions)) await session.release();
  },

  /** The line for an image. */
  async answer({ sha256, key, file, prompts, limits, refuse }) {
    const started = performance.now();
    const { about, kind, image, outputs, familiar } = await look(sha256, key, file, limits);
    if (refuse && familiar !== null && familiar < about.familiar) throw new Refused("unfamiliar", { familiar });
    const run = (name, feeds) => runGraph(sha256, name, kind.graphs[name], feeds);
    const shown = prompts && shownPrompts(prompts, image);
    const final = kind.finish ? await kind.finish(outputs, image, shown, run) : outputs;
    const part = await kind.decide(final, about, image);
    const line = { ...part, familiar };
    if (prompts) line.prompts = prompts;
    const seconds = (performance.now() - started) / 1000;
    return { ...line, artifact: sha256, version: about.version, seconds };
  },

  /** Seconds that an artifact takes for the image it has just answered for, read already. */
  async time({ sha256, key, file, limits }) {
    const { image } = await look(sha256, key, file, limits);
    let fastest = Infinity;
    for (let repeat = 0; repeat < REPEATS; repeat += 1) {
      const started = performance.now();
      await runModel(sha256, image);
      fastest = Math.min(fastest, performance.now() - started);
    }
    return fastest / 1000;
  },
};

async function look(sha256, key, file, limits) {
  if (looked?.sha256 !== sha256 || looked.key !== key) {
    const { about } = opened.get(sha256);
    looked = null;
    const image = await readImage(file, about.input, limits);
    looked = { sha256, key, about, kind: KINDS[about.task], image, ...(await runModel(sha256, image)) };
  }
  return looked;
}

async function runModel(sha256, image) {
  const { about } = opened.get(sha256);
  const names = KINDS[about.task].graphs.model;
  const pixels = new ort.Tensor("uint8", image.pixels, [image.height, image.width, 4]);
  const wanted = about.familiar === null ? names : [...names, FAMILIAR];
  const outputs = await runGraph(sha256, "model", wanted, { pixels });
  if (about.familiar === null) return { outputs, familiar: null };
  const familiar = outputs.at(-1).data[0];
  if (!(familiar >= 0 && familiar <= 1)) throw new Refused("unsound");
  return { outputs: outputs.slice(0, -1), familiar };
}

/** What one graph gives, in the order of its outputs: {data, dims} each. */
async function runGraph(sha256, name, wanted, feeds) {
  const tensors = Object.entries(feeds).map(([key, value]) => [
    key,
    value instanceof ort.Tensor ? value : new ort.Tensor(value.type, value.data, value.dims),
  ]);
  const found = await opened.get(sha256).sessions[name].run(Object.fromEntries(tensors), wanted);
  return wanted.map((output) => found[output]);
}

/** Prompts in pixels of the image as it is stored -> in those that the graph saw. */
function shownPrompts(prompts, { scale, width, height }) {
  const places = [...prompts.points, ...(prompts.box ? [prompts.box.slice(0, 2), prompts.box.slice(2)] : [])];
  if (!places.every(([x, y]) => x >= 0 && y >= 0 && x <= width * scale && y <= height * scale)) {
    throw new Refused("outside");
  }
  return {
    points: prompts.points.map(([x, y]) => [x / scale, y / scale]),
    labels: prompts.labels,
    box: prompts.box && prompts.box.map((value) => value / scale),
  };
}

/** Whether nothing can be computed any more after an error: memory has run out, or WebAssembly has stopped. */
function isLost(error) {
  return error instanceof WebAssembly.RuntimeError || error instanceof RangeError || /abort|memory/i.test(`${error}`);
}

let last = Promise.resolve();

self.onmessage = ({ data: { number, method, given } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ number, result: await METHODS[method](given) });
    } catch (error) {
      if (error instanceof Refused) self.postMessage({ number, refused: error.message, line: error.line });
      else self.postMessage({ number, failed: `${error}`, lost: isLost(error) });
    }
  });
};
