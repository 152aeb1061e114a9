/** A label with calibrated probabilities: what answer.py does, in a browser. */

import { Refused } from "./faults.js";
import { percent, percentBeside, say } from "./words.js";

const LEAST_TOLD = 0.01; // a probability of which it is said in words how often it is right

export const classification = {
  graphs: { model: ["probabilities"] },

  /** Of two labels the second from the threshold on, of more the likeliest. */
  decide([probabilities], about) {
    const values = Array.from(probabilities.data);
    const sum = values.reduce((one, other) => one + other, 0);
    const isSound = values.every((value) => value >= 0 && value <= 1) && Math.abs(sum - 1) <= 1e-4;
    if (!isSound || values.length !== about.labels.length) throw new Refused("unsound");
    const best = about.threshold === null ? values.indexOf(Math.max(...values)) : Number(isPositive(values, about));
    const label = about.labels[best];
    return {
      label,
      probability: values.length === 2 ? values[1] : values[best],
      probabilities: new Map(about.labels.map((name, index) => [name, values[index]])),
      threshold: about.threshold,
    };
  },

  /** The server's line with its labels in the artifact's order, which JSON's objects do not keep. */
  received(line, about) {
    const ordered = new Map(about.labels.map((label) => [label, line.probabilities[label]]));
    return { ...line, probabilities: ordered };
  },

  told(line, about, words) {
    const followed = about.labels.length === 2 ? about.labels[1] : line.label;
    const [share] = line.threshold === null ? [percent(line.probability)] : percentBeside(line.probability, line.threshold);
    const sentences = [say(words.probability, { label: followed, share })];
    const isTold = about.labels.length === 2 && line.probability >= LEAST_TOLD && !line.remark && !about.leak;
    if (isTold) sentences.push(say(words.of_hundred, { label: followed }));
    return {
      title: line.label,
      sentences,
      bars: [...line.probabilities].map(([name, value]) => ({
        name,
        value,
        shown: name === followed ? share : percent(value),
        threshold: name === followed ? line.threshold : null,
      })),
    };
  },

  threshold(about, words, line = null) {
    if (about.threshold === null) return words.likeliest;
    const [, share] = percentBeside(line ? line.probability : about.threshold, about.threshold);
    return say(words.label_from, { label: about.labels[1], other: about.labels[0], share });
  },

  /** A label has no place in the image. */
  async draw() {},
};

function isPositive(values, about) {
  return values[1] >= Math.fround(about.threshold);
}
