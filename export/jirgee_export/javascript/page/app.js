/** The page: one text as you type, many texts at a press, in two languages. */

import { Pool } from "./pool.js";
import { WORDS } from "./words.js";

const SHOWN = 200; // rows of the table
const at = (id) => document.getElementById(id);
const make = (tag, content, name = "") => Object.assign(document.createElement(tag), { textContent: content, className: name });
const percent = (share) => `${(100 * share).toFixed(1)} %`;

const pool = new Pool();
let manifest = null, scored = null, asked = 0;
let language = localStorage.getItem("language") ?? (navigator.languages.some((name) => name.startsWith("mn")) ? "mn" : "en");
let words = WORDS[language];

// --- language ---------------------------------------------------------------------------------------------------

function translate() {
  words = WORDS[language];
  document.documentElement.lang = language;
  at("language").textContent = words.other;
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = words[node.dataset.word];
  if (scored) showTable();
  showFacts();
}

at("language").onclick = () => {
  language = language === "mn" ? "en" : "mn";
  localStorage.setItem("language", language);
  translate();
};

function showFacts() {
  if (!manifest) return;
  const size = Object.values(manifest.files).reduce((sum, file) => sum + file.size, 0);
  const facts = [manifest.recipe, `${(size / 1e6).toFixed(1)} MB`];
  if (navigator.serviceWorker?.controller) facts.push(words.offline);
  at("facts").textContent = facts.join(" · ");
}

function fail(error) {
  at("loading").hidden = false;
  at("loading-bar").hidden = true;
  at("loading-text").className = "error";
  at("loading-text").textContent = `${words.failed}: ${error.message}`;
}

// --- one text ---------------------------------------------------------------------------------------------------

function bars(probs, into) {
  const best = probs.indexOf(Math.max(...probs));
  into.replaceChildren(...manifest.labels.map((label, k) => {
    const bar = make("div", "", k === best ? "bar best" : "bar");
    bar.append(make("span", label), Object.assign(document.createElement("meter"), { value: probs[k] }), make("span", percent(probs[k]), "number"));
    return bar;
  }));
}

async function scoreOne() {
  const text = at("text").value.trim(), turn = ++asked;
  if (!manifest || !text) return at("bars").replaceChildren();
  try {
    const [probs] = await pool.score([text]);
    if (turn === asked) bars(Array.from(probs), at("bars"));
  } catch (error) {
    fail(error);
  }
}

let pause;
at("text").oninput = () => {
  clearTimeout(pause);
  pause = setTimeout(scoreOne, 150);
};

// --- many texts -------------------------------------------------------------------------------------------------

at("score").onclick = async () => {
  const texts = at("lines").value.split(/\r?\n/).filter((line) => line.trim());
  if (!texts.length) return;
  scored = { texts, probs: new Array(texts.length), done: 0, rate: 0 };
  for (const id of ["download", "table"]) at(id).hidden = true;
  at("shares").replaceChildren();
  at("more").textContent = "";
  at("score").disabled = true;
  at("stop").hidden = at("batch-bar").hidden = false;
  at("batch-bar").value = 0;
  at("speed").textContent = words.starting;
  let began = null;
  try {
    await pool.scoreMany(texts, (rows, probs) => {
      rows.forEach((row, i) => (scored.probs[row] = probs[i]));
      scored.done += rows.length;
      scored.rate = (1000 * scored.done) / (performance.now() - began);
      at("batch-bar").value = scored.done / texts.length;
      showSpeed();
    }, () => (began = performance.now()));
    showTable();
  } catch (error) {
    fail(error);
  }
  at("score").disabled = false;
  at("stop").hidden = at("batch-bar").hidden = true;
};

at("stop").onclick = () => pool.stop();

const bestOf = (probs) => probs.indexOf(Math.max(...probs));

function showSpeed() {
  at("speed").textContent = words.speed(scored.done, scored.rate.toFixed(scored.rate < 10 ? 1 : 0));
}

function showTable() {
  const rows = scored.texts.flatMap((text, row) => (scored.probs[row] ? [[text, Array.from(scored.probs[row])]] : []));
  if (!rows.length) return;
  const counts = manifest.labels.map(() => 0);
  for (const [, probs] of rows) counts[bestOf(probs)]++;
  bars(counts.map((count) => count / rows.length), at("shares"));
  const head = make("tr", "");
  head.append(...[words.text, words.label].map((word) => make("th", word)));
  at("table").tHead.replaceChildren(head);
  at("table").tBodies[0].replaceChildren(...rows.slice(0, SHOWN).map(([text, probs]) => {
    const line = make("tr", ""), best = bestOf(probs);
    const label = make("td", manifest.labels[best]);
    label.append(make("small", percent(probs[best])));
    line.append(make("td", text), label);
    return line;
  }));
  at("table").hidden = false;
  showSpeed();
  at("more").textContent = rows.length > SHOWN ? words.more(SHOWN, rows.length) : "";
  URL.revokeObjectURL(at("download").href);
  at("download").href = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
  at("download").hidden = false;
}

/** The columns of `jirgee score`. The mark at the beginning tells spreadsheets that it is UTF-8. */
function csv(rows) {
  const quote = (cell) => (/[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const table = [["text", "label", "score", ...manifest.labels.map((label) => `p_${label}`)]];
  for (const [text, probs] of rows) {
    const best = bestOf(probs);
    table.push([text, manifest.labels[best], probs[best].toFixed(6), ...probs.map((share) => share.toFixed(6))]);
  }
  return "\ufeff" + table.map((row) => row.map(quote).join(",") + "\n").join("");
}

// --- start ------------------------------------------------------------------------------------------------------

/** Wait until the service worker keeps what is fetched. There is none on plain http, and a forced reload goes past it. */
async function keepForOffline() {
  if (!navigator.serviceWorker) return;
  const claimed = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve));
  try {
    await navigator.serviceWorker.register("sw.js");
  } catch {
    return;
  }
  if (navigator.serviceWorker.controller) return;
  await Promise.race([claimed, new Promise((resolve) => setTimeout(resolve, 3000))]);
}

translate();
at("loading-text").textContent = words.loading;
try {
  await keepForOffline();
  manifest = await pool.start((done, total) => {
    at("loading-text").textContent = total && done >= total ? words.starting : `${words.loading}: ${(done / 1e6).toFixed(1)} MB`;
    if (total) at("loading-bar").value = done / total;
    else at("loading-bar").removeAttribute("value");
  });
  at("labels").textContent = manifest.labels.join(" · ");
  at("loading").hidden = true;
  at("score").disabled = false;
  showFacts();
  scoreOne();
} catch (error) {
  fail(error);
}
