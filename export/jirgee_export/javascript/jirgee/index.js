/** Score texts with a jirgee bundle through WebAssembly, in a browser or in Node.js. No other package is needed.
 *
 *     import { Scorer } from "jirgee";
 *     const scorer = await Scorer.load("bundle");       // a directory, or its address
 *     const { labels, probs } = await scorer.score(["..."]);
 */

import { download, readBundle } from "./files.js";
import { NgramModel } from "./ngrams.js";
import { plan, Tokenizer } from "./tokens.js";
import * as ort from "./vendor/ort.wasm.bundle.min.mjs";

const WINDOW = 2048; // texts that are sorted together
const TOKEN_BUDGET = 512; // tokens of one batch, padding included
const WASM = new URL("./vendor/ort-wasm-simd-threaded.wasm", import.meta.url);

export class Scorer {
  /** Use `Scorer.load`. */
  constructor(manifest, files, session) {
    this.classes = manifest.labels;
    this.manifest = manifest;
    this.tokenizer = new Tokenizer(manifest.tokenizer, files.get(manifest.tokenizer.file), manifest.max_tokens);
    this._ngrams = manifest.ngram_weight ? new NgramModel(files.get("ngrams.npz"), manifest.labels.length) : null;
    this._session = session;
  }

  /** Open a bundle: a directory, or the address of one.
   * @param {string|URL} place
   * @param {{onProgress?: (done: number, total: number) => void}} options onProgress: bytes read. */
  static async load(place, { onProgress = () => {} } = {}) {
    ort.env.wasm.numThreads = 1; // more need a page with special headers; a scorer a worker needs none
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary ??= await wasm((done) => onProgress(done, 0));
    const { manifest, files } = await readBundle(place, onProgress);
    const session = await ort.InferenceSession.create(files.get("model.onnx"), { executionProviders: ["wasm"] });
    return new Scorer(manifest, files, session);
  }

  /** Probabilities of every class for each text, in order. Repeats are computed once.
   * @param {string[]} texts
   * @param {{onBatch?: (rows: number[], probs: Float32Array[]) => unknown, share?: [number, number]}} options
   *   onBatch: called, and waited for, as results come, with places in `texts`; false ends the work there. share: [i, n]
   *   computes only every n-th batch, from the i-th on, for n workers that are given the same texts. Texts that were
   *   not computed have the label and the probabilities undefined. */
  async score(texts, { onBatch = () => {}, share: [mine, sharers] = [0, 1] } = {}) {
    if (!Array.isArray(texts)) throw new TypeError("score takes an array of texts: score([text])");
    const places = new Map();
    texts.forEach((text, row) => (places.get(text) ?? places.set(text, []).get(text)).push(row));
    const unique = [...places.keys()];
    const probs = new Array(texts.length).fill();
    let turn = 0;
    work: for (let start = 0; start < unique.length; start += WINDOW) {
      const window = unique.slice(start, start + WINDOW);
      const encoded = window.map((text) => this.tokenizer.encode(text));
      for (const { rows, width } of plan(encoded.map((ids) => ids.length), TOKEN_BUDGET)) {
        if (turn++ % sharers !== mine) continue;
        const logits = await this._run(rows.map((row) => encoded[row]), width);
        const filled = [];
        rows.forEach((row, i) => {
          const found = this._probabilities(window[row], logits[i]);
          for (const place of places.get(window[row])) {
            probs[place] = found;
            filled.push(place);
          }
        });
        if ((await onBatch(filled, filled.map((place) => probs[place]))) === false) break work;
      }
    }
    const labels = probs.map((row) => row && this.classes[row.indexOf(Math.max(...row))]);
    return { classes: this.classes, labels, probs };
  }

  /** Rows of ids -> rows of logits. */
  async _run(encoded, width) {
    const shape = [encoded.length, width];
    const arrays = {
      input_ids: new Int32Array(encoded.length * width).fill(this.manifest.tokenizer.pad_id),
      attention_mask: new Int32Array(encoded.length * width),
      token_type_ids: new Int32Array(encoded.length * width),
    };
    encoded.forEach((ids, i) => {
      arrays.input_ids.set(ids, i * width);
      arrays.attention_mask.fill(1, i * width, i * width + ids.length);
    });
    const types = Object.fromEntries(this._session.inputMetadata.map(({ name, type }) => [name, type]));
    const feed = {};
    for (const name of this._session.inputNames) {
      const data = types[name] === "int64" ? BigInt64Array.from(arrays[name], BigInt) : arrays[name];
      feed[name] = new ort.Tensor(types[name], data, shape);
    }
    const { data } = (await this._session.run(feed))[this._session.outputNames[0]];
    const classes = this.classes.length;
    return encoded.map((_, i) => Array.from(data.subarray(i * classes, (i + 1) * classes)));
  }

  /** Softmax of the logits over the temperature, plus what the n-grams say. */
  _probabilities(text, logits) {
    const { temperature, ngram_weight } = this.manifest;
    const more = this._ngrams?.logits(text);
    const scaled = logits.map((logit, k) => logit / temperature + (more ? ngram_weight * more[k] : 0));
    if (!scaled.every(Number.isFinite)) throw new Error("the model gave a logit that is not a finite number");
    const largest = Math.max(...scaled);
    const powers = scaled.map((value) => Math.exp(value - largest));
    const sum = powers.reduce((a, b) => a + b);
    return Float32Array.from(powers, (power) => power / sum);
  }

  /** Free the model's memory. The scorer cannot be used afterwards. */
  async close() {
    await this._session.release();
  }
}

async function wasm(onProgress) {
  if (WASM.protocol !== "file:") return download(WASM, onProgress);
  const { readFile } = await import(/* in Node.js */ "node:fs/promises");
  return new Uint8Array(await readFile(WASM));
}
