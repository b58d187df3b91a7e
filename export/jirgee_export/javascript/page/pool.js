/** One worker for single texts, and more beside it while many are scored.
 *
 * A model a worker: threads inside one model would need headers that a plain file server does not send.
 */

const CORES = navigator.hardwareConcurrency || 2;
const ROOM = (navigator.deviceMemory ?? 4) >= 4 ? 4 : 1; // models in memory at once
const HANDS = Math.max(1, Math.min(ROOM, CORES <= 2 ? CORES : CORES - 1));

export class Pool {
  constructor() {
    this._jobs = new Map();
    this._next = 0;
  }

  /** Start the first worker. @returns {Promise<object>} the bundle's manifest. */
  async start(onProgress) {
    this._first = await this._open(onProgress);
    return this._first.manifest;
  }

  async _open(onProgress) {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    const manifest = await new Promise((resolve, reject) => {
      worker.onerror = (event) => reject(new Error(event.message || "worker.js"));
      worker.onmessage = ({ data }) => {
        if (data.type === "progress") onProgress(data.done, data.total);
        else if (data.type === "ready") resolve(data.manifest);
        else if (data.type === "error") reject(new Error(data.message));
      };
      worker.postMessage({ type: "load" });
    });
    worker.onmessage = ({ data }) => {
      const job = this._jobs.get(data.id);
      if (data.type === "batch") job?.onBatch(data.rows, data.probs);
      else if (data.type === "done") job?.done();
      else if (data.type === "error") job?.failed(new Error(data.message));
    };
    return { worker, manifest };
  }

  /** @param {string[]} texts @returns {Promise<Float32Array[]>} of one text, or a few. */
  async score(texts) {
    const probs = new Array(texts.length);
    await this._send(this._first.worker, texts, [0, 1], (rows, found) => rows.forEach((row, i) => (probs[row] = found[i])));
    return probs;
  }

  /** Score many texts with every worker that can be had; `onStart()` is called when all of them are ready,
   * `onBatch(rows, probs)` as results come. */
  async scoreMany(texts, onBatch, onStart) {
    const wanted = texts.length < 64 ? 1 : HANDS;
    const more = await Promise.allSettled(Array.from({ length: wanted - 1 }, () => this._open(() => {})));
    const extra = more.filter((found) => found.status === "fulfilled").map((found) => found.value.worker);
    this._busy = [this._first.worker, ...extra];
    onStart();
    try {
      await Promise.all(this._busy.map((worker, i) => this._send(worker, texts, [i, this._busy.length], onBatch)));
    } finally {
      for (const worker of extra) worker.terminate();
      this._busy = [];
    }
  }

  /** End `scoreMany` early, after the batches that are being computed. */
  stop() {
    for (const worker of this._busy ?? []) worker.postMessage({ type: "stop" });
  }

  _send(worker, texts, share, onBatch) {
    const id = this._next++;
    return new Promise((done, failed) => {
      this._jobs.set(id, { onBatch, done, failed });
      worker.postMessage({ type: "score", id, texts, share });
    }).finally(() => this._jobs.delete(id));
  }
}
