/** The n-gram half of a hybrid: hashed character n-grams -> logits (docs/bundle-format.md, "ngrams.npz").
 *
 * 64-bit arithmetic is done in pairs of 32-bit halves, many times faster than BigInt.
 */

const SHORTEST = 2, LONGEST = 5; // characters in an n-gram
const STEP = [0x9e3779b9, 0x7f4a7c15], MIX = [0xbf58476d, 0x1ce4e5b9]; // high and low halves
// What Python's str.split() takes for white space.
const WHITE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

export class NgramModel {
  /** @param {Uint8Array} npz @param {number} classes. Throws an Error if it is not a model for so many classes. */
  constructor(npz, classes) {
    const arrays = readNpz(npz);
    const { used, idf, weights, bias } = arrays;
    const size = (used ? 8 * used.length : idf?.length) ?? 0;
    const slots = new Int32Array(size).fill(-1); // bucket -> its place in idf and weights, -1 for one that is not used
    let count = 0;
    for (let i = 0; i < size; i++) if (!used || (used[i >>> 3] >>> (7 - (i & 7))) & 1) slots[i] = count++;
    const fits = idf?.length === count && weights?.length === count * classes && bias?.length === classes;
    if (size < 2 || size & (size - 1) || !fits) {
      throw new Error(`the n-gram model's arrays do not fit ${classes} classes`);
    }
    this.bits = 31 - Math.clz32(size);
    Object.assign(this, { slots, idf, weights, bias });
  }

  /** @param {string} text @returns {Float64Array} one logit a class. */
  logits(text) {
    const counts = countNgrams(text, this.bits);
    const classes = this.bias.length, out = new Float64Array(classes);
    let squares = 0;
    for (const [bucket, count] of counts) {
      const slot = this.slots[bucket];
      if (slot < 0) continue;
      const value = (1 + Math.log(count)) * this.idf[slot];
      squares += value * value;
      for (let k = 0; k < classes; k++) out[k] += value * this.weights[slot * classes + k];
    }
    const norm = Math.max(Math.sqrt(squares), 1e-12);
    return out.map((sum, k) => sum / norm + this.bias[k]);
  }
}

/** @returns {Map<number, number>} bucket -> how often it occurs. */
export function countNgrams(text, bits) {
  const points = Array.from(text.toLowerCase().split(WHITE).filter(Boolean).join(" "), (c) => c.codePointAt(0));
  const counts = new Map();
  const high = new Uint32Array(points.length), low = new Uint32Array(points.length); // the hash from each place on
  for (let n = 1; n <= LONGEST; n++) {
    for (let i = 0; i + n <= points.length; i++) {
      const [h, l] = times(high[i], low[i], STEP);
      const sum = l + points[i + n - 1] + 1;
      low[i] = sum;
      high[i] = h + (sum > 0xffffffff ? 1 : 0);
      if (n < SHORTEST) continue;
      const mixed = times(high[i] ^ (high[i] >>> 29), low[i] ^ ((low[i] >>> 29) | (high[i] << 3)), MIX);
      const bucket = mixed[0] >>> (32 - bits);
      counts.set(bucket, (counts.get(bucket) ?? 0) + 1);
    }
  }
  return counts;
}

/** The product of two 64-bit numbers, modulo 2^64, as [high, low], each from 0 to 2^32 - 1. */
function times(high, low, [otherHigh, otherLow]) {
  const a = low >>> 16, b = low & 0xffff, c = otherLow >>> 16, d = otherLow & 0xffff;
  const bottom = b * d, middle = a * d + b * c + Math.floor(bottom / 0x10000); // all below 2^53
  const carried = a * c + Math.floor(middle / 0x10000);
  const crossed = Math.imul(high, otherLow) + Math.imul(low, otherHigh);
  return [(carried + crossed) >>> 0, (((middle & 0xffff) << 16) | (bottom & 0xffff)) >>> 0];
}

/** A stored (not compressed) .npz of bytes and little-endian floats: name -> Uint8Array or Float32Array. */
function readNpz(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22; // the end record has a comment of unknown length
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("the n-gram model is not a .npz file");
  const arrays = {};
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint16(entry + 10, true) !== 0) throw new Error("the n-gram model is compressed; export it again");
    const size = view.getUint32(entry + 24, true), nameLength = view.getUint16(entry + 28, true);
    const skip = view.getUint16(entry + 30, true) + view.getUint16(entry + 32, true);
    const local = view.getUint32(entry + 42, true);
    const name = new TextDecoder().decode(bytes.subarray(entry + 46, entry + 46 + nameLength));
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays[name.replace(/\.npy$/, "")] = readNpy(bytes.subarray(start, start + size));
    entry += 46 + nameLength + skip;
  }
  return arrays;
}

function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] > 1; // version 1 has a header length of two bytes, later ones of four
  const start = wide ? 12 + view.getUint32(8, true) : 10 + view.getUint16(8, true);
  const header = new TextDecoder().decode(bytes.subarray(wide ? 12 : 10, start));
  if (header.includes("'descr': '|u1'")) return bytes.subarray(start);
  const type = /'descr': '<f([248])'/.exec(header)?.[1];
  if (!type || !/'fortran_order': False/.test(header)) throw new Error("the n-gram model holds no plain float arrays");
  const width = Number(type);
  const read = { 2: (i) => half(view.getUint16(i, true)), 4: (i) => view.getFloat32(i, true), 8: (i) => view.getFloat64(i, true) };
  return Float32Array.from({ length: (bytes.length - start) / width }, (_, i) => read[width](start + i * width));
}

/** IEEE 754 half precision. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >>> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
