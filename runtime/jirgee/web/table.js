"use strict";
// CSV in and out, as RFC 4180 has it: quoted cells, doubled quotes, line breaks inside quotes; comma, semicolon or tab.

// -> { header: [names], rows: [[cells]], delimiter }. Throws { line } for a quote that is never closed.
function readTable(text) {
  const input = text.replace(/^\uFEFF/, "");
  const first = input.slice(0, (input.search(/[\r\n]/) + 1 || input.length + 1) - 1);
  const delimiter = [",", ";", "\t"].sort((a, b) => first.split(b).length - first.split(a).length)[0];
  const rows = [];
  let row = [], cell = "", quoted = false, line = 1, opened = 1;
  const endCell = () => { row.push(cell); cell = ""; };
  const endRow = () => {
    endCell();
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
  };
  for (let place = 0; place < input.length; place++) {
    const sign = input[place];
    if (sign === "\n") line++;
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (input[place + 1] === '"') { cell += '"'; place++; }
      else quoted = false;
    } else if (sign === '"' && cell === "") { quoted = true; opened = line; }
    else if (sign === delimiter) endCell();
    else if (sign === "\n") endRow();
    else if (sign !== "\r" || input[place + 1] !== "\n") cell += sign;
  }
  if (quoted) throw { line: opened };
  if (cell !== "" || row.length) endRow();
  const [header = [], ...body] = rows;
  return { header, rows: body.map((cells) => header.map((_, place) => cells[place] ?? "")), delimiter };
}

function writeTable(header, rows, delimiter) {
  const cell = (value) => (/["\r\n]/.test(value) || value.includes(delimiter) ? `"${value.replaceAll('"', '""')}"` : value);
  return [header, ...rows].map((row) => row.map((value) => cell(String(value))).join(delimiter) + "\r\n").join("");
}

// The names of the added columns; as `jirgee score` does, all get a prefix where the file has one of them already.
function addedColumns(header, classes) {
  const plain = ["label", "score", ...classes.map((name) => `p_${name}`)];
  let prefix = "";
  while (plain.some((name) => header.includes(prefix + name))) prefix += "predicted_";
  return plain.map((name) => prefix + name);
}

const addedCells = (result, classes) => [result.label, result.score, ...classes.map((name) => result.probs[name])];
