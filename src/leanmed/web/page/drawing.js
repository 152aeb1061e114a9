/** Answers drawn over images, in the colours of leanmed.tasks.drawing. */

const MARKED = "rgb(255, 200, 0)";
const OUTLINES = [
  [255, 200, 0],
  [0, 200, 255],
  [255, 80, 160],
  [120, 255, 80],
]; // of a mask's values, in turn
const POINTED = "rgb(255, 255, 0)";
const GROUND = "rgb(0, 0, 0)"; // around letters and lines, so that they show on any image
const WIDENED = 200; // pixels of a picture's side for each pixel of a line: telephones show pictures much smaller
const LETTERS = 24; // that a picture is wide

/** How wide lines are drawn on a picture. */
export function lineWidth(context) {
  return Math.max(1, Math.round(Math.max(context.canvas.width, context.canvas.height) / WIDENED));
}

/** A few letters below a place. */
export function writeOn(context, letters, x, y) {
  const size = Math.max(12, Math.round(context.canvas.width / LETTERS));
  const top = Math.min(y + lineWidth(context), context.canvas.height - size);
  context.font = `bold ${size}px sans-serif`;
  context.textBaseline = "top";
  context.lineWidth = size / 4;
  context.strokeStyle = GROUND;
  context.strokeText(letters, x, top);
  context.fillStyle = MARKED;
  context.fillText(letters, x, top);
}

/** A box on a dark ground. */
export function drawBox(context, [x1, y1, x2, y2]) {
  const width = lineWidth(context);
  for (const [colour, wide] of [
    [GROUND, 2 * width],
    [MARKED, width],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = wide;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
}

/** A cross at a place. */
export function drawCross(context, x, y) {
  const arm = 5 * lineWidth(context);
  context.strokeStyle = POINTED;
  context.lineWidth = lineWidth(context);
  context.beginPath();
  context.moveTo(x - arm, y);
  context.lineTo(x + arm, y);
  context.moveTo(x, y - arm);
  context.lineTo(x, y + arm);
  context.stroke();
}

/**
 * The outline of what each value of a mask marks, in a colour for each.
 *
 * @param {OffscreenCanvasRenderingContext2D | CanvasRenderingContext2D} context with the picture
 * @param {{plane: Uint8Array, width: number, height: number}} mask in the image's own pixels
 * @param {number} shown pixels of the picture for one of the image
 */
export function drawOutlines(context, mask, shown) {
  const { width, height } = context.canvas;
  const drawn = context.getImageData(0, 0, width, height);
  const values = new Uint8Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const row = Math.min(Math.floor((y + 0.5) / shown), mask.height - 1) * mask.width;
    for (let x = 0; x < width; x += 1) {
      values[y * width + x] = mask.plane[row + Math.min(Math.floor((x + 0.5) / shown), mask.width - 1)];
    }
  }
  const reach = lineWidth(context);
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : values[y * width + x]);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const value = values[y * width + x];
      const around = value && [at(x - reach, y), at(x + reach, y), at(x, y - reach), at(x, y + reach)];
      if (!value || around.every((other) => other === value)) continue;
      drawn.data.set([...OUTLINES[(value - 1) % OUTLINES.length], 255], 4 * (y * width + x));
    }
  }
  context.putImageData(drawn, 0, 0);
}
