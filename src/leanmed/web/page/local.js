/** Answers made on this device, in a worker. */

import { Broken, Refused } from "./faults.js";
import { bytesOf } from "./place.js";
import { sha256 } from "./sha256.js";

const KEPT = "leanmed.fastest"; // in localStorage: the SHA-256 of the artifact that answers fastest on this device

/**
 * A model's artifacts, of which each answers; the smallest does until the fastest on this device is known.
 *
 * @param {object} site as in site.json
 * @param {(share: number) => void} tell is given how much of a file is loaded, from 0 to 1
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
    const fastest = kept(model);
    return model.artifacts.find((one) => one.sha256 === fastest) ?? model.artifacts[0];
  }

  /** The line for an image, and the artifact that gave it. */
  async answer(model, item, prompts) {
    const about = this.chosen(model);
    await this.open(about);
    const asked = { ...this.asked(about, item), prompts, refuse: this.site.refuse_unfamiliar };
    return { line: await this.call("answer", asked), about };
  }

  /** Forget the images that were asked about. */
  async forget() {
    if (this.worker) await this.call("forget", {});
  }

  /**
   * Measure once, with an image that was answered, which of a model's artifacts is fastest here, and keep it.
   *
   * @returns {Promise<{fast: object, slow: object} | null>} each with `precision` and `seconds`; null: nothing was to do
   */
  async compare(model, item) {
    if (model.artifacts.length < 2 || kept(model)) return null;
    const timed = [];
    for (const about of model.artifacts) {
      try {
        await this.open(about);
        timed.push({ about, precision: about.precision, seconds: await this.call("time", this.asked(about, item)) });
      } catch {
        return null; // one cannot be loaded or opened now: the page goes on with the one that has answered
      }
    }
    timed.sort((one, other) => one.seconds - other.seconds);
    for (const { about } of timed.slice(1)) await this.close(about);
    keep(model, timed[0].about.sha256);
    return { fast: timed[0], slow: timed.at(-1) };
  }

  asked(about, item) {
    return { sha256: about.sha256, key: item.key, file: item.file, limits: this.site.limits };
  }

  async start() {
    this.worker = await startWorker();
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = () => this.lose();
    const { script, wasm } = this.site.runtime;
    const files = { script: await this.load(script), wasm: await this.load(wasm) };
    await this.call("start", files, Object.values(files));
  }

  open(about) {
    this.started ??= this.start();
    this.started.catch(() => {
      this.started = null;
    });
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
    const share = (count) => this.tell(count / file.size);
    for (const anew of [false, true]) {
      const content = await bytesOf(file.file, share, anew); // what was kept may be of an older site
      if ((await sha256(content)) === file.sha256) return content;
    }
    throw new Broken("broken_file", file.file);
  }

  call(method, given, transferred = []) {
    this.number += 1;
    const { number } = this;
    return new Promise((resolve, reject) => {
      if (!this.worker) throw new Broken("worker_lost");
      this.calls.set(number, { resolve, reject });
      this.worker.postMessage({ number, method, given }, transferred);
    });
  }

  receive({ number, result, refused, line, failed, lost }) {
    const { resolve, reject } = this.calls.get(number);
    this.calls.delete(number);
    if (refused) reject(new Refused(refused, line));
    else if (failed) reject(lost ? new Broken("worker_lost") : new Error(failed));
    else resolve(result);
    if (lost) this.lose();
  }

  /** The worker is gone, as when memory ran out: what waits is told, and the next question starts another one. */
  lose() {
    this.worker.terminate();
    this.worker = null;
    for (const { reject } of this.calls.values()) reject(new Broken("worker_lost"));
    this.calls.clear();
    this.opened.clear();
    this.started = null;
  }
}

/**
 * The worker, from one text that holds all of its modules. It is made by the page, so that the page's own policy holds
 * for it. It imports nothing, because Firefox would load that from the network and not from what is kept.
 */
async function startWorker() {
  const text = await bytesOf("engine.js");
  return new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
}

/** What is kept under for a model: its name and its artifacts, at this address. */
function placeOf(model) {
  return [KEPT, document.baseURI, model.name, ...model.artifacts.map((about) => about.sha256)].join(" ");
}

function kept(model) {
  try {
    return localStorage.getItem(placeOf(model));
  } catch {
    return null; // pages from a disk, and private windows, may not keep anything
  }
}

function keep(model, fastest) {
  try {
    localStorage.setItem(placeOf(model), fastest);
  } catch {
    // it is measured anew next time
  }
}
