/** SentencePiece unigram models: text -> piece ids, the same as the C++ library's.
 *
 * Reads the .model file itself (a protobuf): its pieces, its compiled normaliser, its flags. Everything works on UTF-8
 * bytes, as the library does. Sources: Kudo 2018 (arXiv:1804.10959) for the model; sentencepiece's normalizer.cc and
 * unigram_model.cc for the order in which ties are broken and for the rounding of scores to 32 bits.
 */

const NORMAL = 1, UNKNOWN = 2, USER_DEFINED = 4, UNUSED = 5, BYTE = 6; // types of pieces
const UNIGRAM = 1; // type of model
const SPACE = 0x20;
const VISIBLE_SPACE = [0xe2, 0x96, 0x81]; // U+2581, which stands for a space inside pieces
const REPLACEMENT = [0xef, 0xbf, 0xbd]; // U+FFFD
const UNKNOWN_PENALTY = 10;
const OWN_BONUS = 0.1; // a byte after the first of a symbol that the user defined: it is always taken whole

export class SentencePiece {
  /** @param {Uint8Array} model the bytes of a .model file. Throws an Error if it is none, or not a unigram model. */
  constructor(model) {
    const { pieces, trainer, normaliser } = readModel(model);
    if (trainer.type !== UNIGRAM) throw new Error("only unigram SentencePiece models are segmented in JavaScript");
    this.unknown = pieces.findIndex((piece) => piece.type === UNKNOWN);
    if (this.unknown < 0) throw new Error("not a SentencePiece model: it has no unknown piece");
    this._suffix = trainer.spaceAsSuffix;
    this._bytes = trainer.byteFallback ? bytePieces(pieces) : null;
    this._normaliser = normaliser;
    this._charsMap = normaliser.charsMap.length ? new CharsMap(normaliser.charsMap) : null;
    this._scores = Float32Array.from(pieces, (piece) => piece.score);
    this._types = Uint8Array.from(pieces, (piece) => piece.type);
    const known = (piece) => piece.type === NORMAL || piece.type === USER_DEFINED || piece.type === UNUSED;
    this._trie = new Trie(pieces.map((piece) => (known(piece) ? piece.bytes : null)));
    const own = pieces.map((piece) => (piece.type === USER_DEFINED ? piece.bytes : null));
    this._ownSymbols = own.some(Boolean) ? new Trie(own) : null;
    const normal = pieces.filter((piece) => piece.type === NORMAL);
    this._unknownScore = normal.reduce((least, piece) => Math.min(least, piece.score), Infinity) - UNKNOWN_PENALTY;
  }

  /** @param {string} text well-formed (no half surrogate pairs). @returns {number[]} piece ids. */
  encode(text) {
    return this._segment(this.normalise(new TextEncoder().encode(text)));
  }

  /** UTF-8 bytes of a text -> of the text that is cut into pieces. */
  normalise(input) {
    const { dropSpaces, dummyPrefix, escapeSpaces } = this._normaliser;
    const space = escapeSpaces ? VISIBLE_SPACE : [SPACE];
    const out = [];
    let place = 0;
    if (dropSpaces) {
      while (place < input.length) {
        const step = this._step(input, place);
        if (step.bytes.length !== 1 || step.bytes[0] !== SPACE) break;
        place = step.end;
      }
    }
    if (place >= input.length) return out;
    if (dummyPrefix && !this._suffix) out.push(...space);
    let afterSpace = dropSpaces;
    while (place < input.length) {
      const { bytes, end } = this._step(input, place);
      let first = 0;
      while (afterSpace && first < bytes.length && bytes[first] === SPACE) first++;
      if (first < bytes.length) {
        for (let i = first; i < bytes.length; i++) {
          if (bytes[i] === SPACE) out.push(...space);
          else out.push(bytes[i]);
        }
        afterSpace = dropSpaces && bytes[bytes.length - 1] === SPACE;
      }
      place = end;
      if (!dropSpaces) afterSpace = false;
    }
    if (dropSpaces) {
      const same = () => space.every((byte, i) => out[out.length - space.length + i] === byte);
      while (out.length >= space.length && same()) out.length -= space.length;
    }
    if (dummyPrefix && this._suffix) out.push(...space);
    return out;
  }

  /** What the text becomes at `place`, and where the next step begins. */
  _step(input, place) {
    if (this._ownSymbols) {
      const length = this._ownSymbols.longest(input, place);
      if (length) return { bytes: input.subarray(place, place + length), end: place + length };
    }
    const found = this._charsMap?.longest(input, place);
    if (found) return found;
    const end = Math.min(place + characterLength(input[place]), input.length);
    return { bytes: wellFormed(input, place, end) ? input.subarray(place, end) : REPLACEMENT, end };
  }

  /** Viterbi: the most probable pieces of normalised bytes. */
  _segment(text) {
    const size = text.length;
    const best = new Float32Array(size + 1), from = new Int32Array(size + 1).fill(-1), piece = new Int32Array(size + 1);
    const offer = (end, start, id, added) => {
      const score = Math.fround(best[start] + Math.fround(added)); // in 32 bits, as the library does: it decides ties
      if (from[end] < 0 || score > best[end]) {
        best[end] = score;
        from[end] = start;
        piece[end] = id;
      }
    };
    for (let start = 0; start < size; ) {
      const one = Math.min(characterLength(text[start]), size - start);
      let single = false;
      for (let node = 0, end = start; end < size; ) {
        node = this._trie.child(node, text[end++]);
        if (node < 0) break;
        const id = this._trie.value(node);
        if (id < 0 || this._types[id] === UNUSED) continue;
        const own = this._types[id] === USER_DEFINED;
        offer(end, start, id, own ? (end - start - 1) * OWN_BONUS : this._scores[id]);
        if (end - start === one) single = true;
      }
      if (!single) offer(start + one, start, this.unknown, this._unknownScore);
      start += one;
    }
    const ids = [];
    for (let end = size; end > 0; end = from[end]) {
      if (piece[end] !== this.unknown) ids.push(piece[end]);
      else if (this._bytes) for (let i = end - 1; i >= from[end]; i--) ids.push(this._bytes[text[i]]);
      else if (ids[ids.length - 1] !== this.unknown) ids.push(this.unknown); // a run of unknown pieces is one
    }
    return ids.reverse();
  }
}

/** A set of byte strings with the index of each, in one hash table: (node, byte) -> node. */
class Trie {
  /** @param {(Uint8Array|null)[]} keys null: not in the set. */
  constructor(keys) {
    const bytes = keys.reduce((sum, key) => sum + (key ? key.length : 0), 0);
    let size = 16;
    while (size < 2 * bytes) size *= 2;
    this._mask = size - 1;
    this._keys = new Float64Array(size).fill(-1); // node * 256 + byte may need more than 32 bits
    this._nodes = new Int32Array(size);
    const values = [-1];
    keys.forEach((key, index) => {
      if (!key || !key.length) return;
      let node = 0;
      for (const byte of key) {
        const slot = this._slot(node, byte);
        if (this._keys[slot] < 0) {
          this._keys[slot] = node * 256 + byte;
          this._nodes[slot] = values.push(-1) - 1;
        }
        node = this._nodes[slot];
      }
      values[node] = index;
    });
    this._values = Int32Array.from(values);
  }

  _slot(node, byte) {
    const key = node * 256 + byte;
    let slot = (Math.imul(node, 0x9e3779b1) ^ Math.imul(byte + 1, 0x85ebca6b)) & this._mask;
    while (this._keys[slot] >= 0 && this._keys[slot] !== key) slot = (slot + 1) & this._mask;
    return slot;
  }

  /** The node behind `byte`, -1 if there is none. */
  child(node, byte) {
    const slot = this._slot(node, byte);
    return this._keys[slot] < 0 ? -1 : this._nodes[slot];
  }

  /** The index of the key that ends at `node`, -1 if none does. */
  value(node) {
    return this._values[node];
  }

  /** Length of the longest key that the bytes have at `place`, 0 if there is none. */
  longest(bytes, place) {
    let length = 0;
    for (let node = 0, end = place; end < bytes.length; ) {
      node = this.child(node, bytes[end++]);
      if (node < 0) break;
      if (this._values[node] >= 0) length = end - place;
    }
    return length;
  }
}

/** The compiled normaliser: a double-array trie (Darts) of byte strings, and the strings that replace them. */
class CharsMap {
  constructor(blob) {
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const size = view.getUint32(0, true);
    if (size % 4 || size + 4 > blob.length) throw new Error("not a SentencePiece model: its normaliser is damaged");
    this._units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this._replacements = blob.subarray(4 + size);
  }

  /** The longest key that `input` has at `place`: what replaces it, and where it ends; null if there is none. */
  longest(input, place) {
    let unit = this._units[0], node = offset(unit), found = -1, end = place;
    for (let i = place; i < input.length; i++) {
      node ^= input[i];
      unit = this._units[node];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== input[i]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) {
        found = this._units[node] & 0x7fffffff;
        end = i + 1;
      }
    }
    if (found < 0) return null;
    let stop = found;
    while (stop < this._replacements.length && this._replacements[stop]) stop++;
    return { bytes: this._replacements.subarray(found, stop), end };
  }
}

const offset = (unit) => (unit >>> 10) << ((unit & 0x200) >>> 6);

const characterLength = (byte) => (byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4);

function wellFormed(input, place, end) {
  if (input[place] >= 0x80 && end - place !== characterLength(input[place])) return false;
  if (input[place] >= 0x80 && input[place] < 0xc0) return false;
  for (let i = place + 1; i < end; i++) if ((input[i] & 0xc0) !== 0x80) return false;
  return true;
}

function bytePieces(pieces) {
  const ids = new Int32Array(256).fill(-1);
  const name = new TextDecoder();
  pieces.forEach((piece, id) => {
    if (piece.type === BYTE) ids[parseInt(name.decode(piece.bytes).slice(3, 5), 16)] = id; // <0xE4>
  });
  if (ids.includes(-1)) throw new Error("not a SentencePiece model: a byte has no piece");
  return ids;
}

/** The fields of the ModelProto (sentencepiece_model.proto) that segmentation needs. */
function readModel(bytes) {
  const pieces = [];
  const trainer = { type: UNIGRAM, spaceAsSuffix: false, byteFallback: false };
  const normaliser = { charsMap: new Uint8Array(), dummyPrefix: true, dropSpaces: true, escapeSpaces: true };
  for (const [field, value] of fields(bytes)) {
    if (field === 1) {
      const piece = { bytes: new Uint8Array(), score: 0, type: NORMAL };
      for (const [name, content] of fields(value)) {
        if (name === 1) piece.bytes = content;
        else if (name === 2) piece.score = new DataView(content.buffer, content.byteOffset, 4).getFloat32(0, true);
        else if (name === 3) piece.type = content;
      }
      pieces.push(piece);
    } else if (field === 2) {
      for (const [name, content] of fields(value)) {
        if (name === 3) trainer.type = content;
        else if (name === 24) trainer.spaceAsSuffix = Boolean(content);
        else if (name === 35) trainer.byteFallback = Boolean(content);
      }
    } else if (field === 3) {
      for (const [name, content] of fields(value)) {
        if (name === 2) normaliser.charsMap = content;
        else if (name === 3) normaliser.dummyPrefix = Boolean(content);
        else if (name === 4) normaliser.dropSpaces = Boolean(content);
        else if (name === 5) normaliser.escapeSpaces = Boolean(content);
      }
    }
  }
  return { pieces, trainer, normaliser };
}

/** The fields of one protobuf message: [number, value], where a value is a number or the bytes. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0, scale = 1;
    for (;;) {
      if (place >= bytes.length) throw new Error("not a SentencePiece model: it ends too early");
      const byte = bytes[place++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 128;
    }
  };
  const take = (length) => {
    if (place + length > bytes.length) throw new Error("not a SentencePiece model: it ends too early");
    place += length;
    return bytes.subarray(place - length, place);
  };
  while (place < bytes.length) {
    const key = varint(), wire = key & 7;
    if (wire === 0) yield [key >>> 3, varint()];
    else if (wire === 1) yield [key >>> 3, take(8)];
    else if (wire === 2) yield [key >>> 3, take(varint())];
    else if (wire === 5) yield [key >>> 3, take(4)];
    else throw new Error("not a SentencePiece model");
  }
}
