/** Points and a box on a picture, by pointer or by keyboard. */

const STEP = 0.02; // of the picture's side, for each press of an arrow key
const DRAGGED = 8; // pixels on the screen from which a press is a box and no point
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * @param {HTMLCanvasElement} canvas shows the image
 * @param {number} shown pixels of the canvas for one of the image
 * @param {object | null} prompts so far: {points, labels, box} in pixels of the image
 * @param {object} words
 * @param {(prompts: object | null) => void} ask is given all prompts, whenever there is a new one
 */
export class PromptPad {
  constructor(canvas, shown, prompts, words, ask) {
    this.canvas = canvas;
    this.shown = shown;
    this.prompts = prompts ?? { points: [], labels: [], box: null };
    this.ask = ask;
    this.cursor = { x: canvas.width / 2, y: canvas.height / 2 };
    this.controls = this.makeControls(words, prompts !== null);
    this.picture = null; // what the canvas shows while a cross or a box is drawn over it
    canvas.classList.add("prompted");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application"); // so that screen readers pass on the arrow keys
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", (event) => this.end(event));
    canvas.addEventListener("pointercancel", () => this.forget());
  }

  makeControls(words, some) {
    const help = document.createElement("p");
    help.className = "soft";
    help.textContent = words.prompt_help;
    this.kind = document.createElement("select");
    this.kind.append(new Option(words.prompt_inside, "1"), new Option(words.prompt_outside, "0"));
    this.kind.setAttribute("aria-label", words.prompt_help);
    const clear = document.createElement("button");
    clear.type = "button";
    clear.className = "quiet";
    clear.textContent = words.prompt_clear;
    clear.hidden = !some;
    clear.addEventListener("click", () => this.ask(null));
    return [help, this.kind, clear];
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.from = { screenX: event.clientX, screenY: event.clientY, ...this.placeOf(event) };
  }

  drag(event) {
    if (!this.from || !this.isBox(event)) return;
    const to = this.placeOf(event);
    this.over((context) => context.strokeRect(this.from.x, this.from.y, to.x - this.from.x, to.y - this.from.y));
  }

  end(event) {
    const { from } = this;
    if (!from) return;
    const to = this.placeOf(event);
    const isBox = this.isBox(event);
    this.forget();
    if (!isBox) return this.point(from);
    const box = [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y)];
    return this.ask({ ...this.prompts, box: box.map((value) => value / this.shown) });
  }

  press(event) {
    const move = MOVES[event.key];
    if (move) {
      const { width, height } = this.canvas;
      const inside = (value, most) => Math.min(Math.max(value, 0), most - 1);
      this.cursor.x = inside(this.cursor.x + move[0] * STEP * width, width);
      this.cursor.y = inside(this.cursor.y + move[1] * STEP * height, height);
      this.over((context) => {
        context.strokeRect(this.cursor.x - 1, 0, 2, height);
        context.strokeRect(0, this.cursor.y - 1, width, 2);
      });
    } else if (event.key === "Enter" || event.key === " ") {
      this.forget();
      this.point(this.cursor);
    } else return;
    event.preventDefault();
  }

  point({ x, y }) {
    const points = [...this.prompts.points, [x / this.shown, y / this.shown]];
    this.ask({ ...this.prompts, points, labels: [...this.prompts.labels, Number(this.kind.value)] });
  }

  /** Draw over the picture, which is not changed. */
  over(draw) {
    const context = this.canvas.getContext("2d");
    this.picture ??= context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    context.putImageData(this.picture, 0, 0);
    context.strokeStyle = "rgb(255, 255, 0)";
    context.lineWidth = 2;
    draw(context);
  }

  forget() {
    this.from = null;
    if (this.picture) this.canvas.getContext("2d").putImageData(this.picture, 0, 0);
    this.picture = null;
  }

  isBox(event) {
    return Math.hypot(event.clientX - this.from.screenX, event.clientY - this.from.screenY) >= DRAGGED;
  }

  placeOf(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const inside = (value, most) => Math.min(Math.max(value, 0), most - 1e-3);
    return {
      x: inside(((event.clientX - left) / width) * this.canvas.width, this.canvas.width),
      y: inside(((event.clientY - top) / height) * this.canvas.height, this.canvas.height),
    };
  }
}
