/** The page: images in, answers shown. It knows engines, which answer, and kinds, which say what an answer is. */

import { Broken, Refused, Told } from "./faults.js";
import { decode } from "./image.js";
import { KINDS } from "./kinds.js";
import { LocalEngine } from "./local.js";
import { bytesOf, keepOffline, readSite } from "./place.js";
import { PromptPad } from "./prompting.js";
import { ServerEngine } from "./server.js";
import { percent, say } from "./words.js";

const LEAST_SHOWN = 640; // pixels of the longer side of a picture on the page; smaller images are shown larger
const MOST_SHOWN = 1200;
const byId = (id) => document.getElementById(id);

class Page {
  constructor(site, words) {
    this.site = site;
    this.words = words;
    this.items = [];
    this.last = Promise.resolve(); // images are answered one after the other
    this.engine = site.server
      ? new ServerEngine(site)
      : new LocalEngine(site, (word, values) => this.state(say(words[word], values)));
  }

  async start() {
    this.write();
    this.listen();
    if (this.site.server) return;
    this.state(this.words.needs_network);
    const offline = keepOffline(); // beside the model, so that neither waits for the other
    await this.engine.prepare(this.model);
    this.state("");
    if (await offline.catch(() => false)) this.state(this.words.works_offline);
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
  }

  listen() {
    for (const id of ["camera", "files"]) {
      byId(id).addEventListener("change", ({ target }) => {
        this.add([...target.files]);
        target.value = ""; // the same file may be chosen again
      });
    }
    byId("model").addEventListener("change", () => this.guard(this.engine.prepare(this.model).then(() => this.state(""))));
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

  add(files) {
    for (const file of files) {
      const item = { key: crypto.getRandomValues(new Uint32Array(2)).join("-"), file, model: this.model, line: null };
      item.article = document.createElement("article");
      byId("answers").prepend(item.article);
      this.items.push(item);
      this.fill(item, [named("p", "name", file.name), named("p", "soft", this.words.waiting)]);
      this.last = this.last.then(() => this.ask(item));
    }
    byId("clear").hidden = this.items.length === 0;
  }

  async ask(item, prompts = null) {
    if (!item.article.isConnected) return; // it was removed meanwhile
    this.state(this.words.answering);
    try {
      const { line, about } = await this.engine.answer(item.model, item, prompts);
      Object.assign(item, { line, about });
      const remark = this.remark(line, about);
      if (remark) line.remark ??= remark;
      await this.show(item, prompts);
      this.state(say(this.words.answered, { name: item.file.name, title: item.told.title }));
      byId("export").hidden = false;
      await this.choose(item);
    } catch (error) {
      item.line = { input: item.file.name, error: this.reason(error, item) };
      this.fill(item, [named("p", "name", item.file.name), named("p", "error", item.line.error)]);
      byId("export").hidden = false;
      this.state("");
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
    const picture = await this.picture(item, prompts);
    item.told = kind.told(line, about, this.words, picture.size);
    const { title, sentences, bars } = item.told;
    const parts = [named("p", "name", item.file.name), named("h2", "", title)];
    if (line.remark) parts.push(alerting(named("p", "remark", line.remark)));
    parts.push(picture.element, ...(picture.pad?.controls ?? []));
    picture.element.setAttribute(
      picture.element.tagName === "CANVAS" ? "aria-label" : "alt",
      say(this.words.image_of, { name: item.file.name, title, sentences: sentences.join(" ") }),
    );
    parts.push(...bars.map((bar) => this.bar(bar)), ...sentences.map((sentence) => named("p", "", sentence)));
    parts.push(named("p", "soft", `${kind.threshold(about, this.words)} ${this.rule(about)}`));
    if (line.seconds !== undefined) {
      const seconds = line.seconds.toFixed(2);
      parts.push(named("p", "soft", say(this.words.answered_by, { precision: about.precision, seconds })));
    }
    parts.push(named("p", "notice", this.words.notice));
    this.fill(item, parts);
    if (article.dataset.focused) picture.element.focus();
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
      return { element: image, size: null };
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
    if (!kind.takesPrompts) return { element: canvas, size };
    const ask = (given) => {
      item.article.dataset.focused = document.activeElement === canvas ? "yes" : "";
      this.last = this.last.then(() => this.ask(item, given));
    };
    return { element: canvas, size, pad: new PromptPad(canvas, shown, prompts, this.words, ask) };
  }

  bar({ name, value, threshold }) {
    const share = percent(value);
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
    bar.append(named("span", "", say(this.words.bar, { name, share })), track);
    return bar;
  }

  rule(about) {
    const [rule, least] = about.rule.split(":");
    const images = about.recalibrated ? this.words.recalibration_images : this.words.validation_images;
    return about.threshold === null ? "" : say(this.words.rules[rule] ?? this.words.rules[""], { images, least });
  }

  remark(line, about) {
    if (about.familiar === null || line.familiar === null || line.familiar >= about.familiar) return "";
    return say(this.words.remark, { familiar: line.familiar.toFixed(3), threshold: about.familiar });
  }

  reason(error, item) {
    if (error instanceof Told) return error.message || this.words.server_gone;
    if (error instanceof Broken) return say(this.words[error.message], { name: error.file });
    if (!(error instanceof Refused)) return say(this.words.failed, { reason: error.message });
    const { max_bytes: bytes, max_pixels: pixels } = this.site.limits;
    const side = item?.model.artifacts[0].input.min_side;
    return say(this.words.refused[error.message], { megabytes: bytes / 1e6, megapixels: pixels / 1e6, side });
  }

  fill(item, parts) {
    item.article.replaceChildren(...parts);
  }

  save() {
    const lines = this.items.filter(({ line }) => line).map(({ line }) => `${JSON.stringify(line)}\n`);
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
  }

  async showCard() {
    const { artifacts } = this.model;
    const parts = artifacts.map((about) => this.sheet(about));
    byId("about-text").replaceChildren(...(await Promise.all(parts)).flat());
    byId("about").showModal();
  }

  async sheet(about) {
    const parts = [named("h2", "", `${this.model.name}: ${about.precision}`)];
    if (about.leak) parts.push(named("p", "remark", say(this.words.leaks, { leak: about.leak })));
    if (about.score) {
      const { name, value, low, high } = about.score;
      const interval = low === null ? "" : say(this.words.interval, { low, high });
      parts.push(named("p", "", say(this.words.score, { name, value, interval })));
    }
    const kind = KINDS[about.task];
    parts.push(named("p", "", `${kind.threshold(about, this.words)} ${this.rule(about)}`));
    const card = document.createElement("div");
    card.innerHTML = about.card; // made by leanmed from the card's text, with all marks of HTML in it escaped
    return [...parts, card];
  }

  state(text) {
    byId("state").textContent = text;
  }

  /** Tell what keeps the page as a whole from working. */
  async guard(promise) {
    try {
      await promise;
    } catch (error) {
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
  try {
    const site = await readSite();
    const page = new Page(site, await wordsFor(site));
    await page.guard(page.start());
  } catch (error) {
    byId("fault").textContent = `The page cannot start: ${error.message} ${error.file ?? ""}`;
    byId("fault").hidden = false;
  }
}

main();
