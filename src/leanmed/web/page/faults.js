/** What may go wrong, each kind with what is shown for it. */

/** An image gets no answer; the message is a key of `refused` in the words, and `line` what its line says besides. */
export class Refused extends Error {
  constructor(word, line = {}) {
    super(word);
    this.line = line;
  }
}

/** The page cannot work; the message is a key of the words. */
export class Broken extends Error {
  constructor(word, name = "") {
    super(word);
    this.file = name;
  }
}

/** The server gave no answer: the message is its own words, or a key of the words. */
export class Told extends Error {}
