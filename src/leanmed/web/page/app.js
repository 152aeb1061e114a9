/** The page: images in, answers shown. It knows engines, which answer, and kinds, which say what an answer is. */

import { Broken, Refused, Told } from "./faults.js";
import { decode } from "./image.js";
import { KINDS } from "./kinds.js";
import { LocalEngine } from "./local.js";
import { bytesOf, keepAll, readSite, startKeeping } from "./place.js";
import { Pointed, PromptPad } from "./prompting.js";
import { ServerEngine } from "./server.js";
import { jsonOf, say } from "./words.js";

const LEAST_SHOWN = 640; // pixels of the longer side of a picture on the page; smaller images are shown larger
const MOST_SHOWN = 1200;
const byId = (id) => document.getElementById(id);

class Page {
  constructor(site, words) {
    this.site = site;
    this.words = words;
    this.items = [];
    this.last = Promise.resolve(); // images are answered one after the other
    this.engine = site.server ? new ServerEngine(site) : new LocalEngine(site, (share) => this.tellLoaded(share));
  }

  async start() {
    this.write();
    this.listen();
    if (this.site.server) return;
    byId("offline").textContent = this.words.needs_network;
    const keeping = startKeeping((update) => this.offer(update)).catch(() => false);
    this.last = keeping; // else what the first image needs were loaded twice
    const isKept = await keeping;
    await this.prepare();
    const isWhole = isKept && (await keepAll().catch(() => false));
    byId("offline").textContent = isWhole ? this.words.works_offline : this.words.stays_online;
  }

  get model() {
    return this.site.models[byId("model").selectedIndex];
  }

  write() {
    document.documentElement.lang = this.words.code;
    for (const place of document.querySelectorAll("[data-word]")) place.textContent = this.words[place.dataset.word];
    byId("privacy").textContent = this.site.server ? this.words.goes_to_server : this.words.stays_here;
    for (const { name } of this.site.models) byId("model").append(new Option(name));
    byId("choice").hidden = this.site.models.length < 2;
    byId("card").hidden = false;
    this.showTaken();
  }

  /** Say what images the model takes: of slices of scans, no photograph of a screen is one. */
  showTaken() {
    const takesSlices = this.model.artifacts[0].input.kind === "slice";
    byId("photograph").hidden = takesSlices;
    byId("slices").hidden = !takesSlices;
  }

  listen() {
    for (const id of ["camera", "files"]) {
      byId(id).addEventListener("change", ({ target }) => {
        this.add([...target.files]);
        target.value = ""; // the same file may be chosen again
      });
    }
    byId("model").addEventListener("change", () => {
      this.showTaken();
      this.guard(this.prepare());
    });
    byId("export").addEventListener("click", () => this.save());
    byId("clear").addEventListener("click", () => this.clear());
    byId("card").addEventListener("click", () => this.showCard());
    byId("about-close").addEventListener("click", () => byId("about").close());
    document.addEventListener("paste", ({ clipboardData }) => this.add([...clipboardData.files]));
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      this.add([...event.dataTransfer.files]);
    });
  }

  async prepare() {
    await this.engine.prepare(this.model);
    byId("fault").hidden = true;
    byId("progress").hidden = true;
  }

  add(files) {
    for (const file of files) {
      const key = crypto.getRandomValues(new Uint32Array(2)).join("-");
      const article = document.createElement("article");
      const item = { key, file, article, model: this.model, pointed: new Pointed(), line: null, told: null };
      byId("answers").prepend(article);
      this.items.push(item);
      article.replaceChildren(this.name(item), named("p", "soft waiting", this.words.waiting));
      this.queue(item, null);
    }
    byId("clear").hidden = this.items.length === 0;
  }

  queue(item, prompts) {
    this.last = this.last.then(() => this.ask(item, prompts));
  }

  async ask(item, prompts) {
    if (!item.article.isConnected) return; // it was removed meanwhile
    this.state(this.words.answering);
    try {
      const { line, about } = await this.engine.answer(item.model, item, prompts);
      if (!item.article.isConnected) return;
      const remark = this.remark(line, about);
      item.line = { input: item.file.name, ...line, ...(remark && { remark }) };
      item.about = about;
      await this.show(item, prompts);
      this.state(say(this.words.answered, { name: item.file.name, title: item.told.title }));
      await this.choose(item);
    } catch (error) {
      this.showReason(item, error);
      this.state("");
    } finally {
      byId("progress").hidden = true;
      byId("export").hidden = !this.items.some(({ line }) => line);
    }
  }

  /** Tell why there is no answer; one that an image had before stays as it is. */
  showReason(item, error) {
    const reason = named("p", "error", this.reason(error, item));
    reason.setAttribute("role", "alert");
    item.article.querySelector(".waiting")?.remove();
    item.article.querySelector(".error")?.remove();
    if (item.told) item.article.prepend(reason);
    else {
      item.line = { input: item.file.name, ...error.line, error: reason.textContent };
      item.article.replaceChildren(this.name(item), reason);
    }
  }

  /** Find out once which of the model's artifacts is fastest here, after the first answer was given. */
  async choose(item) {
    const found = await this.engine.compare(item.model, item);
    if (!found) return;
    const { fast, slow } = found;
    const [fastMs, slowMs] = [fast, slow].map(({ seconds }) => Math.round(1000 * seconds));
    const values = { fast: fast.precision, slow: slow.precision, fast_ms: fastMs, slow_ms: slowMs };
    this.state(say(this.words.faster, values));
  }

  async show(item, prompts) {
    const { line, about, article } = item;
    const kind = KINDS[about.task];
    const hadFocus = article.contains(document.activeElement);
    const { element, size, controls } = await this.picture(item, prompts);
    item.told = kind.told(line, about, this.words, size);
    const { title, sentences, bars } = item.told;
    const parts = [this.name(item), named("h2", "", title)];
    if (line.remark) parts.push(alerting(named("p", "remark", line.remark)));
    if (about.leak) parts.push(named("p", "remark", say(this.words.leaks, { leak: about.leak })));
    parts.push(element, ...controls);
    const described = say(this.words.image_of, { name: item.file.name, title, sentences: sentences.join(" ") });
    element.setAttribute(element.tagName === "CANVAS" ? "aria-label" : "alt", described);
    parts.push(...bars.map((bar) => this.bar(bar)), ...sentences.map((sentence) => named("p", "", sentence)));
    parts.push(named("p", "soft", `${kind.threshold(about, this.words, line)} ${this.rule(about)}`));
    const seconds = line.seconds.toFixed(2);
    parts.push(named("p", "soft", say(this.words.answered_by, { precision: about.precision, seconds })));
    parts.push(named("p", "notice", this.words.notice));
    article.replaceChildren(...parts);
    if (hadFocus) element.focus();
  }

  name({ file, model }) {
    return named("p", "name", this.site.models.length < 2 ? file.name : `${file.name} (${model.name})`);
  }

  /** The image with the answer on it, and what is needed to point at it. */
  async picture(item, prompts) {
    const { line, about, file } = item;
    const kind = KINDS[about.task];
    let bitmap;
    try {
      bitmap = await decode(file);
    } catch (error) {
      if (!this.engine.drawing) throw error;
      const image = new Image();
      image.src = URL.createObjectURL(await this.engine.drawing(item.model, item, prompts));
      image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
      return { element: image, size: null, controls: [] };
    }
    const size = { width: bitmap.width, height: bitmap.height };
    const longer = Math.max(size.width, size.height);
    const shown = Math.max(LEAST_SHOWN / longer, Math.min(1, MOST_SHOWN / longer));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(size.width * shown));
    canvas.height = Math.max(1, Math.round(size.height * shown));
    canvas.setAttribute("role", "img");
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "rgb(128, 128, 128)"; // it shows where the image leaves something out
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    await kind.draw(context, line, shown);
    if (!kind.takesPrompts) return { element: canvas, size, controls: [] };
    const pad = new PromptPad(canvas, size, item.pointed, this.words, (given) => this.queue(item, given));
    return { element: canvas, size, controls: pad.controls };
  }

  bar({ name, value, shown, threshold }) {
    const bar = named("div", threshold === null ? "bar" : "bar marked", "");
    const track = named("div", "track", "");
    const fill = named("div", "fill", "");
    fill.style.width = `${100 * value}%`;
    track.append(fill);
    if (threshold !== null) {
      const mark = named("div", "mark", "");
      mark.style.left = `${100 * threshold}%`;
      mark.append(named("span", "", this.words.threshold_mark));
      track.append(mark);
    }
    track.setAttribute("aria-hidden", "true"); // the words above it say the same
    bar.append(named("span", "", say(this.words.bar, { name, share: shown })), track);
    return bar;
  }

  rule(about) {
    const [rule, least] = about.rule.split(":");
    const images = about.recalibrated ? this.words.recalibration_images : this.words.validation_images;
    const sentence = Object.hasOwn(this.words.rules, rule) ? this.words.rules[rule] : this.words.rules[""];
    return about.threshold === null ? "" : say(sentence, { images, least });
  }

  remark(line, about) {
    if (about.familiar === null || line.familiar === null || line.familiar >= about.familiar) return "";
    return say(this.words.remark, { familiar: line.familiar.toFixed(3), threshold: about.familiar });
  }

  reason(error, item) {
    if (error instanceof Told) return this.words[error.message] ?? error.message;
    if (error instanceof Broken) return say(this.words[error.message], { name: error.file });
    if (!(error instanceof Refused)) return say(this.words.failed, { reason: error.message });
    const { max_bytes: bytes, max_pixels: pixels } = this.site.limits;
    const side = item?.model.artifacts[0].input.min_side;
    const [megabytes, megapixels] = [bytes, pixels].map((value) => Math.floor(value / 1e6));
    return say(this.words.refused[error.message], { megabytes, megapixels, side });
  }

  save() {
    const lines = this.items.filter(({ line }) => line).map(({ line }) => `${jsonOf(line)}\n`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    link.download = "answers.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  clear() {
    this.items = [];
    byId("answers").replaceChildren();
    byId("export").hidden = true;
    byId("clear").hidden = true;
    this.state("");
    this.engine.forget().catch(() => {}); // there is nothing to forget where the worker has ended
  }

  showCard() {
    byId("about-text").replaceChildren(...this.model.artifacts.flatMap((about) => this.sheet(about)));
    byId("about").showModal();
    byId("about-title").focus();
  }

  sheet(about) {
    const parts = [named("h3", "", `${this.model.name}: ${about.precision}`)];
    if (about.leak) parts.push(named("p", "remark", say(this.words.leaks, { leak: about.leak })));
    if (about.score) {
      const { name: key, value, low, high } = about.score;
      const name = Object.hasOwn(this.words.scores, key) ? this.words.scores[key] : key;
      const interval = low === null ? "" : say(this.words.interval, { low, high });
      parts.push(named("p", "", say(this.words.score, { name, value, interval })));
      if (about.recalibrated) parts.push(named("p", "", this.words.before_recalibration));
    }
    const kind = KINDS[about.task];
    parts.push(named("p", "", `${kind.threshold(about, this.words)} ${this.rule(about)}`));
    const card = document.createElement("div");
    card.innerHTML = about.card; // made by leanmed from the card's text, with all marks of HTML in it escaped
    return [...parts, card];
  }

  /** Show how much is loaded, in steps that a screen reader can follow. */
  tellLoaded(share) {
    const tenths = Math.floor(10 * share);
    byId("progress").hidden = false;
    byId("progress").textContent = say(this.words.loading, { share: `${10 * tenths} %` });
  }

  offer(update) {
    byId("update").hidden = false;
    byId("update").addEventListener("click", update, { once: true });
  }

  state(text) {
    byId("state").textContent = text;
  }

  /** Tell what keeps the page as a whole from working. */
  async guard(promise) {
    try {
      await promise;
    } catch (error) {
      byId("progress").hidden = true;
      byId("fault").textContent = this.reason(error, null);
      byId("fault").hidden = false;
    }
  }
}

function named(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

function alerting(element) {
  element.setAttribute("role", "alert");
  return element;
}

async function wordsFor(site) {
  const wanted = navigator.languages.map((language) => language.slice(0, 2)).find((code) => site.words.includes(code));
  const code = wanted ?? site.words[0];
  return { code, ...JSON.parse(new TextDecoder().decode(await bytesOf(`words/${code}.json`))) };
}

async function main() {
  let words = null;
  try {
    const site = await readSite();
    words = await wordsFor(site);
    if (!isCurrent()) throw new Broken("old_browser");
    const page = new Page(site, words);
    await page.guard(page.start());
  } catch (error) {
    byId("fault").textContent = words?.[error.message] ?? `The page cannot start: ${error.message} ${error.file ?? ""}`;
    byId("fault").hidden = false;
  }
}

/** Whether the browser has what the page uses, of which the youngest came in 2023. */
function isCurrent() {
  return ["OffscreenCanvas", "CompressionStream", "createImageBitmap", "Worker"].every((name) => name in globalThis);
}

main();
