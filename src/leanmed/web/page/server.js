/** Answers of the server that the page comes from: the same questions as of local.js, put over HTTP. */

import { Refused, Told } from "./faults.js";
import { KINDS } from "./kinds.js";

const AGAIN = 503; // the server is busy
const TRIES = 20;
const PAUSE = 1000; // milliseconds

/**
 * @param {object} site as in site.json
 */
export class ServerEngine {
  constructor(site) {
    this.site = site;
  }

  /** The server is ready when it gives the page. */
  async prepare() {}

  /** The line for an image, and the artifact that gave it. */
  async answer(model, item, prompts) {
    const [about] = model.artifacts;
    if (item.file.size > this.site.limits.max_bytes) throw new Refused("bytes");
    const response = await this.post(model, item, prompts, "json");
    const { input, ...line } = await response.json();
    if (line.artifact !== about.sha256) throw new Told("model_changed");
    return { line: KINDS[about.task].received?.(line, about) ?? line, about };
  }

  /** Nothing is kept. */
  async forget() {}

  /** The image with the answer on it, where the browser cannot read the image itself. */
  async drawing(model, item, prompts) {
    return (await this.post(model, item, prompts, "png")).blob();
  }

  /** There is nothing to choose here. */
  async compare() {
    return null;
  }

  async post(model, item, prompts, form) {
    const body = new FormData();
    body.append("artifact", model.name);
    body.append("form", form);
    for (const [x, y] of prompts?.points ?? []) body.append("point", `${x},${y}`);
    for (const label of prompts?.labels ?? []) body.append("label", `${label}`);
    if (prompts?.box) body.append("box", prompts.box.join());
    body.append("image", item.file, "image"); // what the file is called is nobody's business there
    let response = await ask(body);
    for (let again = 1; response.status === AGAIN && again < TRIES; again += 1) {
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
      response = await ask(body);
    }
    if (response.ok) return response;
    const { error, familiar } = await response.json().catch(() => ({})); // a proxy's error is a page
    if (familiar !== undefined) throw new Refused("unfamiliar", { familiar });
    throw new Told(error ?? "server_gone");
  }
}

async function ask(body) {
  try {
    return await fetch(new URL("v1/predict", document.baseURI), { method: "POST", body });
  } catch {
    throw new Told("server_gone");
  }
}
