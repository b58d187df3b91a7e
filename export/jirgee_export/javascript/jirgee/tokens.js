/** Texts -> rows of the embedding table, as the manifest's `tokenizer` says, and rows -> batches.
 *
 * The same steps in the same order as jirgee's tokens.py and plan.py, so that the same texts meet in the same batches.
 */

import { SentencePiece } from "./sentencepiece.js";

// Lower case and normal forms are Unicode's, as in Python; a newer Unicode may know letters that an older one does not.
const NORMALISERS = {
  lower: (text) => text.toLowerCase(),
  nfc: (text) => text.normalize("NFC"),
  nfkc: (text) => text.normalize("NFKC"),
};

export class Tokenizer {
  /** @param {object} spec `tokenizer` of the manifest. @param {Uint8Array} model its file. @param {number} maxTokens */
  constructor(spec, model, maxTokens) {
    if (spec.kind !== "sentencepiece") throw new Error(`tokenizers of kind ${spec.kind} are not run in JavaScript`);
    const unknown = spec.normalise.find((name) => !(name in NORMALISERS));
    if (unknown !== undefined) throw new Error(`unknown text normalisation ${unknown}`);
    this.spec = spec;
    this._pieces = new SentencePiece(model);
    this._room = maxTokens - spec.prefix.length - spec.suffix.length;
  }

  /** @param {string} text @returns {number[]} rows, special tokens included, at most maxTokens. */
  encode(text) {
    const { normalise, prefix, suffix, offset, unk_id } = this.spec;
    for (const name of normalise) text = NORMALISERS[name](text);
    // Half a surrogate pair (half an emoji, cut by some API) has no UTF-8 form.
    const ids = this._pieces.encode(text.replace(/\p{Surrogate}/gu, "?")).slice(0, this._room);
    return [...prefix, ...ids.map((id) => (id === this._pieces.unknown ? unk_id : id + offset)), ...suffix];
  }
}

/** Cut rows into batches of at most `budget` tokens, padding included, the longest first.
 * @param {number[]} lengths @param {number} budget @returns {{rows: number[], width: number}[]} */
export function plan(lengths, budget) {
  const order = Array.from(lengths.keys()).sort((a, b) => lengths[b] - lengths[a] || a - b);
  const batches = [];
  for (let start = 0; start < order.length; ) {
    const width = lengths[order[start]];
    const end = start + Math.max(1, Math.floor(budget / width));
    batches.push({ rows: order.slice(start, end), width });
    start = end;
  }
  return batches;
}
