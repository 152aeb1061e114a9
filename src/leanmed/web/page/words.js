/** Sentences with places to fill in, and how numbers are told. */

/**
 * A sentence with its `{places}` filled in.
 *
 * @param {string} sentence
 * @param {Object<string, string | number>} values
 */
export function say(sentence, values = {}) {
  return sentence.replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
}

/** A share in [0, 1] in percent; never "0" or "100" of what is neither. */
export function percent(share, digits = 0) {
  const least = 10 ** -digits;
  if (share > 0 && share * 100 < least / 2) return `< ${least} %`;
  if (share < 1 && share * 100 > 100 - least / 2) return `> ${100 - least} %`;
  return `${(share * 100).toFixed(digits)} %`;
}
