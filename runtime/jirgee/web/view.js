"use strict";
// An explanation as `jirgee explain --json` prints it -> what the page shows of it.

const percent = (p) => (p > 0.9995 ? ">99.9 %" : p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`);
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

// The visible part of a piece: white space stands between pieces and is not coloured.
function parted(text) {
  const [, before, core, after] = text.match(/^(\s*)([\s\S]*?)(\s*)$/);
  return { before, core, after };
}

function showExplanation(root, found, chosen = found.label) {
  root.replaceChildren(
    bars(found, chosen, (label) => {
      showExplanation(root, found, label);
      root.querySelector("input:checked").focus();
    }),
    pieces(found, chosen),
    found.attention ? attentionView(found) : make("p", { class: "note" }, say("noAttention")),
  );
}

function bars(found, chosen, choose) {
  const order = Object.entries(found.probs).sort((a, b) => b[1] - a[1]);
  const rows = order.map(([label, p]) => {
    const fill = make("span", { class: "fill" });
    fill.style.setProperty("--p", p);
    const radio = make("input", {
      type: "radio", name: "class", value: label, checked: label === chosen, onchange: () => choose(label),
    });
    return make("label", { class: "bar" }, radio, make("span", { class: "name", dir: "auto" }, label),
      make("span", { class: "track", "aria-hidden": "true" }, fill), make("span", { class: "number" }, percent(p)));
  });
  return make("section", { class: "card", "aria-label": say("result") },
    make("p", { class: "verdict", role: "status" },
      make("strong", { dir: "auto" }, found.label), make("span", {}, percent(found.probs[found.label]))),
    make("fieldset", {}, make("legend", {}, say("probabilities")), ...rows),
    make("p", { class: "note" }, say("choose")));
}

function pieces(found, chosen) {
  const tokens = found.tokens;
  const most = Math.max(...tokens.map((token) => Math.abs(token.effect[chosen])), 1e-9);
  const readout = make("p", { class: "readout" }, tokens.length ? say("point") : say("empty"));
  const facts = (token) => say("effect", {
    effect: signed(token.effect[chosen]), without: percent(token.without[chosen]), whole: percent(found.probs[chosen]),
  });
  const line = make("div", { class: "pieces", role: "listbox", "aria-label": say("pieces"), dir: "auto" });
  const items = tokens.map((token) => {
    const { before, core, after } = parted(token.text);
    const effect = token.effect[chosen];
    const item = make("span", {
      class: `piece ${effect < 0 ? "against" : "toward"}`, role: "option", "aria-selected": "false",
      "aria-label": `${core}: ${facts(token)}`,
    }, core);
    item.style.setProperty("--strength", Math.abs(effect) / most);
    line.append(before, item, after);
    return item;
  });
  const show = (index) => {
    items.forEach((item, place) => item.setAttribute("aria-selected", String(place === index)));
    readout.replaceChildren(make("b", { dir: "auto" }, parted(tokens[index].text).core), ` ${facts(tokens[index])}`);
  };
  roving(items, along, show);
  items.forEach((item, index) => {
    item.addEventListener("pointerenter", () => show(index));
    item.addEventListener("click", () => item.focus());
  });
  const rest = found.text.slice(tokens.map((token) => token.text).join("").length); // start and end count code points
  if (rest.trim()) line.append(make("span", { class: "unread" }, rest));
  return make("section", { class: "card", "aria-labelledby": "pieces-title" },
    make("div", { class: "heading" }, make("h2", { id: "pieces-title" }, say("pieces")),
      make("p", { class: "legend" }, make("span", { dir: "auto" }, say("about", { label: chosen })),
        make("span", { class: "key toward" }, say("toward")), make("span", { class: "key against" }, say("against")))),
    line, readout,
    found.truncated ? make("p", { class: "note" }, say("truncated")) : null,
    make("p", { class: "note" }, say("method", { how: say(found.replacement) })));
}
