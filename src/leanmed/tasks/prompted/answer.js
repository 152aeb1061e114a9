/** A mask of what is pointed at: what answer.py does, in a browser. */

import { drawCross } from "./drawing.js";
import { Refused } from "./faults.js";
import { segmentation } from "./segmentation.js";
import { percent, say } from "./words.js";

const INSIDE = 1;
const TOP_LEFT = 2;
const BOTTOM_RIGHT = 3;

export const prompted = {
  graphs: { model: ["embedding", "image"], decoder: ["mask", "confidence", "score"], localiser: ["point"] },
  takesPrompts: true,
  threshold: segmentation.threshold,
  received: segmentation.received,

  /** Embedding and image, with prompts or the localiser's point, to mask, confidence, score, points and labels. */
  async finish([embedding, seen], { width, height }, prompts, run) {
    let places;
    let labels;
    if (prompts) {
      const corners = prompts.box ? [prompts.box.slice(0, 2), prompts.box.slice(2)] : [];
      places = [...prompts.points, ...corners];
      labels = [...prompts.labels, ...(prompts.box ? [TOP_LEFT, BOTTOM_RIGHT] : [])];
    } else {
      const [point] = await run("localiser", { image: seen });
      places = [Array.from(point.data, (value) => Math.fround(value * Math.max(width, height)))];
      labels = [INSIDE];
    }
    const points = { type: "float32", data: Float32Array.from(places.flat()), dims: [places.length, 2] };
    const marks = { type: "int64", data: BigInt64Array.from(labels, BigInt), dims: [labels.length] };
    const canvas = { type: "uint8", data: new Uint8Array(width * height), dims: [height, width] };
    return [...(await run("decoder", { embedding, points, labels: marks, canvas })), points, marks];
  },

  async decide([mask, confidence, score, points, labels], about, image) {
    const isSound = score.data[0] >= 0 && score.data[0] <= 1 && points.data.every(Number.isFinite);
    if (!isSound) throw new Refused("unsound");
    const pointed = Array.from(labels.data, (label, index) => [
      points.data[2 * index] * image.scale,
      points.data[2 * index + 1] * image.scale,
      Number(label),
    ]);
    return { ...(await segmentation.decide([mask, confidence], about, image)), pointed, score: score.data[0] };
  },

  told(line, about, words, size) {
    const told = segmentation.told(line, about, words, size);
    const expected = line.score === null ? [] : [say(words.expected_overlap, { share: percent(line.score) })];
    return { ...told, sentences: [...told.sentences, ...expected] };
  },

  async draw(context, line, shown) {
    await segmentation.draw(context, line, shown);
    line.pointed.forEach(([x, y]) => drawCross(context, x * shown, y * shown));
  },
};
