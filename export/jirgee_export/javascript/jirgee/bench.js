/** How fast this machine scores, on one thread: node bench.js BUNDLE TEXTS.txt */

import { readFile } from "node:fs/promises";
import { Scorer } from "./index.js";

const [bundle, file] = process.argv.slice(2);
if (!file) {
  console.error("usage: node bench.js BUNDLE TEXTS.txt      (one text a line)");
  process.exit(2);
}
const texts = [...new Set((await readFile(file, "utf8")).split(/\r?\n/).filter((line) => line.trim()))];
let began = performance.now();
const scorer = await Scorer.load(bundle);
await scorer.score(texts.slice(0, 1));
console.log(`first score  ${((performance.now() - began) / 1000).toFixed(2)} s after loading began`);
began = performance.now();
await scorer.score(texts);
console.log(`throughput   ${((1000 * texts.length) / (performance.now() - began)).toFixed(1)} texts/s, ${texts.length} different texts`);
const times = [];
for (const text of texts.slice(0, 50)) {
  began = performance.now();
  await scorer.score([text]);
  times.push(performance.now() - began);
}
times.sort((a, b) => a - b);
console.log(`one text     p50 ${times[times.length >> 1].toFixed(1)} ms`);
console.log(`peak memory  ${Math.round(process.resourceUsage().maxRSS / 1024)} MiB`);
