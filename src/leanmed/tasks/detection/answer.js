/** Boxes with scores: what answer.py does, in a browser. */

import { drawBox, writeOn } from "./drawing.js";
import { Refused } from "./faults.js";
import { say } from "./words.js";

const FAR = 1e5; // pixels; no image reaches so far

export const detection = {
  graphs: { model: ["boxes", "scores"] },

  /** Boxes that reach the threshold, and the fainter ones, rounded as they make curves and no answers. */
  decide([boxes, scores], about, { scale }) {
    const rows = Array.from(scores.data, (score, index) => ({ score, box: boxAt(boxes.data, index) }));
    if (!rows.every(isSound)) throw new Refused("unsound");
    const least = Math.fround(about.threshold ?? 0);
    const sure = rows.filter(({ score }) => score >= least);
    const faint = rows
      .filter(({ score }) => !(score >= least))
      .map(({ score, box }) => ({ score: Math.floor(score * 1e6) / 1e6, box: box.map((v) => Math.round(v * 100) / 100) }))
      .filter(({ box: [x1, y1, x2, y2] }) => x1 < x2 && y1 < y2);
    const placed = (found) => ({
      boxes: found.map(({ box }) => box.map((value) => value * scale)),
      scores: found.map(({ score }) => score),
    });
    return { ...placed(sure), threshold: about.threshold ?? 0, faint: placed(faint) };
  },

  told(line, about, words) {
    const [name] = about.labels;
    return {
      title: say(line.boxes.length === 1 ? words.one_found : words.found, { count: line.boxes.length, label: name }),
      sentences: line.scores.length ? [say(words.best_score, { score: line.scores[0].toFixed(2) })] : [],
      bars: line.scores.map((value, index) => ({
        name: `${name} ${index + 1}`,
        value,
        shown: value.toFixed(2),
        threshold: line.threshold,
      })),
    };
  },

  threshold(about, words) {
    return say(words.box_from, { score: (about.threshold ?? 0).toFixed(2) });
  },

  async draw(context, line, shown) {
    line.boxes.forEach((box, index) => {
      const placed = box.map((value) => value * shown);
      drawBox(context, placed);
      writeOn(context, line.scores[index].toFixed(2), placed[0], placed[3]);
    });
  },
};

function boxAt(values, index) {
  return Array.from(values.subarray(4 * index, 4 * index + 4));
}

function isSound({ score, box: [x1, y1, x2, y2] }) {
  const near = [x1, y1, x2, y2].every((value) => Math.abs(value) < FAR);
  return near && x1 < x2 && y1 < y2 && score >= 0 && score <= 1;
}
