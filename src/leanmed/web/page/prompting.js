/** Points and a box on a picture, by pointer or by keyboard. */

const STEP = 0.02; // of the picture's side, for each press of an arrow key
const DRAGGED = 8; // pixels on the screen from which a press is a box and no point
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** What was pointed at in one image, and how: it stays while the picture is drawn anew. */
export class Pointed {
  constructor() {
    this.prompts = null; // {points, labels, box} in pixels of the image; null: nothing yet
    this.label = "1"; // of the next point: 1 on the object, 0 beside it
    this.cursor = { x: 0.5, y: 0.5 }; // of the keyboard, in shares of the picture
    this.isByTouch = false; // whether a finger points, instead of moving the page
  }

  /** Without the last point. */
  undo() {
    const { points, labels, box } = this.prompts;
    const isLast = points.length === 1 && box === null;
    this.prompts = isLast ? null : { points: points.slice(0, -1), labels: labels.slice(0, -1), box };
    return this.prompts;
  }

  /** One more point or another box. */
  add(change) {
    const { points, labels, box } = this.prompts ?? { points: [], labels: [], box: null };
    this.prompts = {
      points: change.point ? [...points, change.point] : points,
      labels: change.point ? [...labels, Number(this.label)] : labels,
      box: change.box ?? box,
    };
    return this.prompts;
  }
}

/**
 * @param {HTMLCanvasElement} canvas shows the image
 * @param {{width: number, height: number}} size of the image
 * @param {Pointed} pointed
 * @param {object} words
 * @param {(prompts: object | null) => void} ask is given all prompts, whenever there is a new one
 */
export class PromptPad {
  constructor(canvas, size, pointed, words, ask) {
    this.canvas = canvas;
    this.size = size;
    this.pointed = pointed;
    this.ask = ask;
    this.picture = null; // what the canvas shows while a cross or a box is drawn over it
    this.controls = this.makeControls(words);
    canvas.classList.add("pointable");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application"); // so that screen readers pass on the arrow keys
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", (event) => this.end(event));
    canvas.addEventListener("pointercancel", () => this.forget());
  }

  makeControls(words) {
    const { pointed } = this;
    const help = document.createElement("p");
    help.className = "soft";
    help.textContent = words.prompt_help;
    const touch = buttonOf(words.prompt_touch, () => {
      pointed.isByTouch = !pointed.isByTouch;
      show();
    });
    const show = () => {
      touch.setAttribute("aria-pressed", `${pointed.isByTouch}`);
      this.canvas.style.touchAction = pointed.isByTouch ? "none" : "auto";
    };
    show();
    touch.classList.add("touch");
    const label = document.createElement("select");
    label.append(new Option(words.prompt_inside, "1"), new Option(words.prompt_outside, "0"));
    label.value = pointed.label;
    label.setAttribute("aria-label", words.prompt_label);
    label.addEventListener("change", () => {
      pointed.label = label.value;
    });
    const undo = buttonOf(words.prompt_undo, () => this.ask(pointed.undo()));
    undo.hidden = !pointed.prompts?.points.length;
    const clear = buttonOf(words.prompt_clear, () => {
      pointed.prompts = null;
      this.ask(null);
    });
    clear.classList.add("clear");
    clear.hidden = pointed.prompts === null;
    return { above: [help, touch], below: [label, undo, clear] };
  }

  begin(event) {
    const isMeant = event.isPrimary && event.button === 0 && (event.pointerType !== "touch" || this.pointed.isByTouch);
    if (!isMeant) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.from = { screenX: event.clientX, screenY: event.clientY, ...this.shareOf(event) };
  }

  drag(event) {
    if (!this.from || !this.isBox(event)) return;
    const to = this.shareOf(event);
    this.over((context, { width, height }) => {
      const { x, y } = this.from;
      context.strokeRect(x * width, y * height, (to.x - x) * width, (to.y - y) * height);
    });
  }

  end(event) {
    const { from } = this;
    if (!from) return;
    const to = this.shareOf(event);
    const isBox = this.isBox(event) && from.x !== to.x && from.y !== to.y;
    this.forget();
    const [one, other] = [this.placeOf(from), this.placeOf(to)];
    const low = [Math.min(one[0], other[0]), Math.min(one[1], other[1])];
    const high = [Math.max(one[0], other[0]), Math.max(one[1], other[1])];
    this.ask(this.pointed.add(isBox ? { box: [...low, ...high] } : { point: one }));
  }

  press(event) {
    const move = MOVES[event.key];
    const { cursor } = this.pointed;
    if (move) {
      const step = event.shiftKey ? STEP / 10 : STEP;
      cursor.x = Math.min(Math.max(cursor.x + move[0] * step, 0), 1);
      cursor.y = Math.min(Math.max(cursor.y + move[1] * step, 0), 1);
      this.over((context, { width, height }) => {
        context.strokeRect(cursor.x * width - 1, 0, 2, height);
        context.strokeRect(0, cursor.y * height - 1, width, 2);
      });
    } else if (event.key === "Enter" || event.key === " ") {
      this.forget();
      this.ask(this.pointed.add({ point: this.placeOf(cursor) }));
    } else return;
    event.preventDefault();
  }

  /** Draw over the picture, which is not changed. */
  over(draw) {
    const context = this.canvas.getContext("2d");
    this.picture ??= context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    context.putImageData(this.picture, 0, 0);
    context.strokeStyle = "rgb(255, 255, 0)";
    context.lineWidth = 2;
    draw(context, this.canvas);
  }

  forget() {
    this.from = null;
    if (this.picture) this.canvas.getContext("2d").putImageData(this.picture, 0, 0);
    this.picture = null;
  }

  isBox(event) {
    return Math.hypot(event.clientX - this.from.screenX, event.clientY - this.from.screenY) >= DRAGGED;
  }

  /** Where on the picture, in shares of its sides. */
  shareOf(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const inside = (value) => Math.min(Math.max(value, 0), 1);
    return { x: inside((event.clientX - left) / width), y: inside((event.clientY - top) / height) };
  }

  /** The same in pixels of the image, inside it. */
  placeOf({ x, y }) {
    return [Math.min(x * this.size.width, this.size.width - 0.001), Math.min(y * this.size.height, this.size.height - 0.001)];
  }
}

function buttonOf(text, press) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = text;
  button.addEventListener("click", press);
  return button;
}
