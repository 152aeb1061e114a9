/** A label with calibrated probabilities: what answer.py does, in a browser. */

import { percent, say } from "./words.js";

export const classification = {
  graphs: { model: ["probabilities"] },

  /** Of two labels the second from the threshold on, of more the likeliest. */
  decide([probabilities], about) {
    const values = Array.from(probabilities.data);
    const best = about.threshold === null ? values.indexOf(Math.max(...values)) : Number(isPositive(values, about));
    const label = about.labels[best];
    return {
      label,
      probability: values.length === 2 ? values[1] : values[best],
      probabilities: Object.fromEntries(about.labels.map((name, index) => [name, values[index]])),
      threshold: about.threshold,
    };
  },

  told(line, about, words) {
    const followed = about.labels.length === 2 ? about.labels[1] : line.label;
    const share = percent(line.probability);
    return {
      title: line.label,
      sentences: [say(words.probability, { label: followed, share }), say(words.of_hundred, { label: followed, share })],
      bars: Object.entries(line.probabilities).map(([name, value]) => ({
        name,
        value,
        threshold: name === followed ? line.threshold : null,
      })),
    };
  },

  threshold(about, words) {
    return about.threshold === null
      ? words.likeliest
      : say(words.label_from, { label: about.labels[1], other: about.labels[0], share: percent(about.threshold) });
  },

  /** A label has no place in the image. */
  async draw() {},
};

function isPositive(values, about) {
  return values[1] >= Math.fround(about.threshold);
}
