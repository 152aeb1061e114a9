/** What may go wrong, each kind with what is shown for it. */

/** An image gets no answer; the message is a key of `refused` in the words. */
export class Refused extends Error {}

/** The page cannot work; the message is a key of the words. */
export class Broken extends Error {
  constructor(word, name = "") {
    super(word);
    this.file = name;
  }
}

/** The server gave no answer, and says why in its own words. */
export class Told extends Error {}
