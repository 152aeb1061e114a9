/** A mask of one image: what answer.py does, in a browser. */

import { drawOutlines } from "./drawing.js";
import { Refused } from "./faults.js";
import { packPlane, unpackPlane } from "./png.js";
import { percent, say } from "./words.js";

const LEVELS = 255; // of a probability of one

export const segmentation = {
  graphs: { model: ["mask", "confidence"] },

  /** Mask and confidence, (h, w) each; of one label the threshold decides anew. */
  async decide([mask, confidence], about, { scale }) {
    const [height, width] = confidence.dims;
    if (mask.dims.join() !== confidence.dims.join()) throw new Refused("unsound");
    let marked = mask.data;
    if (about.threshold !== null) {
      const least = Math.ceil(LEVELS * about.threshold - 1e-6);
      marked = Uint8Array.from(confidence.data, (level) => Number(level >= least));
    }
    if (marked.some((value) => value > about.labels.length)) throw new Refused("unsound");
    if (about.pieces === "image") marked = largestPieces(marked, width, height);
    marked = enlarged(marked, width, height, scale);
    const sizes = [width * scale, height * scale];
    const part = {
      labels: about.labels,
      pixels: countsOf(marked, about.labels),
      threshold: about.threshold,
      mask: await packPlane(marked, ...sizes),
      confidence: await packPlane(enlarged(confidence.data, width, height, scale), ...sizes),
    };
    return about.pieces === "all" ? part : { ...part, pieces: about.pieces };
  },

  /** The server's line with its labels in the artifact's order, which JSON's objects do not keep. */
  received(line, about) {
    return { ...line, pixels: new Map(about.labels.map((label) => [label, line.pixels[label]])) };
  },

  told(line, about, words, size) {
    const entries = [...line.pixels];
    const shares = size ? entries.map(([label, count]) => [label, count / (size.width * size.height)]) : [];
    const isEmpty = entries.every(([, count]) => count === 0);
    return {
      title: isEmpty
        ? say(words.nothing_marked, { label: about.labels.join(", ") })
        : say(words.marked, { label: entries.filter(([, count]) => count).map(([name]) => name).join(", ") }),
      sentences: shares.map(([label, share]) => say(words.share_marked, { label, share: percent(share, 1) })),
      bars: [],
    };
  },

  threshold(about, words) {
    return about.threshold === null
      ? words.likeliest_place
      : say(words.place_from, { label: about.labels[0], share: percent(about.threshold) });
  },

  async draw(context, line, shown) {
    drawOutlines(context, await unpackPlane(line.mask), shown);
  },
};

function countsOf(mask, labels) {
  const counts = new Array(labels.length + 1).fill(0);
  for (const value of mask) counts[value] += 1;
  return new Map(labels.map((label, index) => [label, counts[index + 1]]));
}

/** A plane in the image's own pixels: the nearest of those that the graph saw. */
function enlarged(plane, width, height, scale) {
  if (scale === 1) return plane;
  const made = new Uint8Array(width * height * scale * scale);
  for (let row = 0; row < height * scale; row += 1) {
    const from = Math.floor((row + 0.5) / scale) * width;
    for (let column = 0; column < width * scale; column += 1) {
      made[row * width * scale + column] = plane[from + Math.floor((column + 0.5) / scale)];
    }
  }
  return made;
}

/** The mask in which each label has kept its largest piece, whose places touch along sides or corners. */
function largestPieces(mask, width, height) {
  const kept = new Uint8Array(mask.length);
  const seen = new Uint8Array(mask.length);
  const largest = new Map(); // label -> its largest piece so far, the first of those of one size
  for (let start = 0; start < mask.length; start += 1) {
    if (mask[start] === 0 || seen[start]) continue;
    const piece = pieceFrom(start, mask, seen, width, height);
    if (piece.length > (largest.get(mask[start])?.length ?? 0)) largest.set(mask[start], piece);
  }
  for (const [label, piece] of largest) for (const place of piece) kept[place] = label;
  return kept;
}

function pieceFrom(start, mask, seen, width, height) {
  const piece = [start];
  seen[start] = 1;
  for (let next = 0; next < piece.length; next += 1) {
    const column = piece[next] % width;
    const row = (piece[next] - column) / width;
    for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, height - 1); y += 1) {
      for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, width - 1); x += 1) {
        const place = y * width + x;
        if (!seen[place] && mask[place] === mask[start]) {
          seen[place] = 1;
          piece.push(place);
        }
      }
    }
  }
  return piece;
}
