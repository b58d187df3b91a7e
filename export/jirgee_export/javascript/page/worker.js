/** Scores in a thread of its own, so that the page stays quick. Messages: {load}, {score}, {stop}. */

import { Scorer } from "./jirgee/index.js";

let scorer, stopped;

/** Let messages in: a model that computes never gives the thread back by itself. */
const breath = () => new Promise((resume) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => (port1.close(), resume());
  port2.postMessage(0);
});

const jobs = {
  async load() {
    const onProgress = (done, total) => postMessage({ type: "progress", done, total });
    scorer = await Scorer.load(new URL("model/", import.meta.url), { onProgress });
    await scorer.score(["warm"]); // the first run allocates
    postMessage({ type: "ready", manifest: scorer.manifest });
  },
  async score({ id, texts, share }) {
    stopped = false;
    const onBatch = async (rows, probs) => {
      postMessage({ type: "batch", id, rows, probs });
      await breath();
      return !stopped;
    };
    await scorer.score(texts, { share, onBatch });
    postMessage({ type: "done", id });
  },
  stop() {
    stopped = true;
  },
};

onmessage = async ({ data }) => {
  try {
    await jobs[data.type](data);
  } catch (error) {
    postMessage({ type: "error", id: data.id, message: String(error?.message ?? error) });
  }
};
