/** Sentences with places to fill in, how numbers are told, and how lines are written. */

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

/** A share and a threshold in percent, with as many digits as show on which side of it the share lies. */
export function percentBeside(share, threshold) {
  let digits = 0;
  while (digits < 6 && share !== threshold && percent(share, digits) === percent(threshold, digits)) digits += 1;
  return [percent(share, digits), percent(threshold, digits)];
}

/** JSON of plain values, in which a Map is an object whose keys keep their order, also those that look like numbers. */
export function jsonOf(value) {
  if (value instanceof Map) {
    return `{${[...value].map(([key, one]) => `${JSON.stringify(key)}: ${jsonOf(one)}`).join(", ")}}`;
  }
  if (Array.isArray(value)) return `[${value.map(jsonOf).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    return jsonOf(new Map(Object.entries(value).filter(([, one]) => one !== undefined)));
  }
  return JSON.stringify(value);
}
