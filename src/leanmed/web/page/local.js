/** Answers made on this device, in a worker. */

import { Broken, Refused } from "./faults.js";
import { bytesOf, startWorker } from "./place.js";
import { sha256 } from "./sha256.js";

const KEPT = "leanmed.fastest"; // in localStorage: model -> {hashes, fastest}

/**
 * A model's artifacts, of which each answers; the smallest does until the fastest on this device is known.
 *
 * @param {object} site as in site.json
 * @param {(word: string, values: object) => void} tell is given what goes on
 */
export class LocalEngine {
  constructor(site, tell) {
    this.site = site;
    this.tell = tell;
    this.calls = new Map();
    this.opened = new Map(); // SHA-256 of an artifact -> promise of its being open
    this.worker = null;
    this.number = 0;
  }

  /** Get everything ready that the first answer of a model takes. */
  async prepare(model) {
    await this.open(this.chosen(model));
  }

  /** The artifact that answers for a model. */
  chosen(model) {
    const found = kept()[model.name];
    const isSame = found && found.hashes.join() === model.artifacts.map((one) => one.sha256).join();
    return model.artifacts.find((one) => isSame && one.sha256 === found.fastest) ?? model.artifacts[0];
  }

  /** The line for an image, and the artifact that gave it. */
  async answer(model, item, prompts) {
    const about = this.chosen(model);
    await this.open(about);
    const line = await this.call("answer", { ...this.asked(about, item), prompts, refuse: this.site.refuse_unfamiliar });
    return { line: { input: item.file.name, ...line }, about };
  }

  /**
   * Measure once, with an image that was answered, which of a model's artifacts is fastest here, and keep it.
   *
   * @returns {Promise<{fast: object, slow: object} | null>} each with `precision` and `seconds`; null: nothing was to do
   */
  async compare(model, item) {
    const hashes = model.artifacts.map((one) => one.sha256);
    if (hashes.length < 2 || kept()[model.name]?.hashes.join() === hashes.join()) return null;
    const timed = [];
    for (const about of model.artifacts) {
      await this.open(about);
      timed.push({ about, precision: about.precision, seconds: await this.call("time", this.asked(about, item)) });
    }
    timed.sort((one, other) => one.seconds - other.seconds);
    for (const { about } of timed.slice(1)) await this.close(about);
    keep(model.name, { hashes, fastest: timed[0].about.sha256 });
    return { fast: timed[0], slow: timed.at(-1) };
  }

  asked(about, item) {
    return { sha256: about.sha256, key: item.key, file: item.file, limits: this.site.limits };
  }

  async start() {
    this.worker = await startWorker();
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => this.lose(event.message);
    const { script, wasm } = this.site.runtime;
    const files = { script: await this.load(script), wasm: await this.load(wasm) };
    await this.call("start", files, Object.values(files));
  }

  open(about) {
    this.started ??= this.start();
    const opening = this.opened.get(about.sha256) ?? this.started.then(() => this.openGraphs(about));
    this.opened.set(about.sha256, opening);
    opening.catch(() => this.opened.delete(about.sha256));
    return opening;
  }

  async openGraphs(about) {
    const graphs = {};
    for (const [name, file] of Object.entries(about.graphs)) graphs[name] = await this.load(file);
    await this.call("open", { about: { ...about, card: "" }, graphs }, Object.values(graphs));
  }

  async close(about) {
    this.opened.delete(about.sha256);
    await this.call("close", { sha256: about.sha256 });
  }

  /** A file of the site, once it is sure that it is the one that the page was made with. */
  async load(file) {
    const share = (count) => this.tell("loading", { share: `${Math.floor((100 * count) / file.size)} %` });
    const content = await bytesOf(file.file, share);
    if ((await sha256(content)) !== file.sha256) throw new Broken("broken_file", file.file);
    return content;
  }

  call(method, given, transferred = []) {
    this.number += 1;
    const { number } = this;
    return new Promise((resolve, reject) => {
      if (!this.worker) throw new Error("the page's worker has ended");
      this.calls.set(number, { resolve, reject });
      this.worker.postMessage({ number, method, given }, transferred);
    });
  }

  receive({ number, result, refused, failed }) {
    const { resolve, reject } = this.calls.get(number);
    this.calls.delete(number);
    if (refused) reject(new Refused(refused));
    else if (failed) reject(new Error(failed));
    else resolve(result);
  }

  /** The worker is gone, as when memory ran out: what waits is told, and the next question starts another one. */
  lose(reason) {
    this.worker.terminate();
    this.worker = null;
    for (const { reject } of this.calls.values()) reject(new Error(reason || "the page ran out of memory"));
    this.calls.clear();
    this.opened.clear();
    this.started = null;
  }
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {}; // pages from a disk, and private windows, may not keep anything
  }
}

function keep(name, found) {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ ...kept(), [name]: found }));
  } catch {
    // it is measured anew next time
  }
}
