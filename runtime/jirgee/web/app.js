"use strict";
// The live page: asks the server, keeps the state, and lets view.js and heads.js draw.

const BATCH = 32; // texts in one request
const find = (name) => document.getElementById(name);
const state = { found: null, model: null, file: null, scored: null, token: sessionStorage.getItem("jirgee-token") || "" };

async function ask(path, body, onBusy = (seconds) => tell("status", "busy", { seconds })) {
  const headers = { "content-type": "application/json" };
  if (state.token) headers.authorization = `Bearer ${state.token}`;
  for (;;) {
    let response;
    try {
      response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
    } catch {
      throw new Error(say("unreachable"));
    }
    if (response.status === 401) {
      await askToken();
      headers.authorization = `Bearer ${state.token}`;
      continue;
    }
    if (response.status === 429) {
      const seconds = Math.min(30, Number(response.headers.get("retry-after")) || 1);
      onBusy(seconds);
      await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    const { message, place } = answer.error || {};
    throw new Error([place, message || `${response.status} ${response.statusText}`].filter(Boolean).join(": "));
  }
}

function askToken() {
  const form = find("token-form");
  form.hidden = false;
  find("token").focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      state.token = find("token").value;
      sessionStorage.setItem("jirgee-token", state.token);
      form.hidden = true;
      resolve();
    };
  });
}

function tell(place, word, values) {
  find(place).textContent = word ? say(word, values) : "";
}

// --- one text ---

async function explainText(event) {
  event?.preventDefault();
  const text = find("text").value;
  if (!text.trim()) {
    find("text").focus();
    return;
  }
  tell("status", "working");
  find("explain").disabled = true;
  try {
    state.found = await ask("v1/explain", { text });
    showExplanation(find("explanation"), state.found);
    tell("status");
  } catch (error) {
    tell("status", "failed", { reason: error.message });
  } finally {
    find("explain").disabled = false;
  }
}

// --- a file ---

async function openFile(file) {
  tell("file-status");
  find("download").hidden = true;
  find("file-form").hidden = true;
  try {
    const table = readTable(await file.text());
    if (!table.rows.length) {
      tell("file-status", "noRows");
      return;
    }
    state.file = { name: file.name, ...table };
  } catch (error) {
    if (!error.line) throw error;
    tell("file-status", "notCsv", { line: error.line });
    return;
  }
  const { name, header, rows } = state.file;
  find("column").replaceChildren(...header.map((column) => make("option", { value: column }, column)));
  const likely = header.findIndex((column) => /^(text|tweet|full_text|content)$/i.test(column.trim()));
  find("column").selectedIndex = Math.max(0, likely);
  tell("file-name", "rows", { name, rows: rows.length });
  find("file-form").hidden = false;
  find("score-file").focus();
}

async function scoreFile(event) {
  event.preventDefault();
  const { name, header, rows, delimiter } = state.file;
  const place = find("column").selectedIndex;
  const bar = find("progress");
  const scored = [];
  bar.max = rows.length;
  bar.value = 0;
  bar.hidden = false;
  find("score-file").disabled = true;
  find("download").hidden = true;
  try {
    let classes = [];
    for (let start = 0; start < rows.length; start += BATCH) {
      const some = rows.slice(start, start + BATCH);
      const body = { texts: some.map((row) => row[place]) };
      const { results } = await ask("v1/score", body, (seconds) => tell("file-status", "busy", { seconds }));
      classes = Object.keys(results[0].probs);
      some.forEach((row, index) => scored.push([...row, ...addedCells(results[index], classes)]));
      bar.value = scored.length;
      tell("file-status", "progress", { done: scored.length, rows: rows.length });
    }
    const csv = writeTable([...header, ...addedColumns(header, classes)], scored, delimiter);
    const link = find("download");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv;charset=utf-8" }));
    link.download = name.replace(/(\.\w+)?$/, ".scored.csv");
    link.hidden = false;
    link.focus();
    tell("file-status", "finished", { rows: scored.length });
  } catch (error) {
    tell("file-status", "failed", { reason: error.message });
  } finally {
    bar.hidden = true;
    find("score-file").disabled = false;
  }
}

function takeDrops(zone) {
  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) {
    zone.addEventListener(name, () => zone.classList.remove("over"));
  }
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
  });
}

// --- start ---

find("text-form").addEventListener("submit", explainText);
find("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) explainText(event);
});
find("file").addEventListener("change", () => {
  if (find("file").files.length) openFile(find("file").files[0]);
  find("file").value = "";
});
find("file-form").addEventListener("submit", scoreFile);
takeDrops(find("drop"));
onLanguage = () => { if (state.found) showExplanation(find("explanation"), state.found); };
translate();
ask("v1/model").then((model) => {
  find("made").textContent = `${model.name} · ${model.recipe} · ${model.labels.join(", ")}`;
}, () => {});
