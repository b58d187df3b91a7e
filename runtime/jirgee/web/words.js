"use strict";
// Every word that the page says, in Mongolian and English; {x} is filled in.
const WORDS = {
  mn: {
    title: "жиргээ — бичвэрийн ангилал, тайлбартайгаа",
    lead: "Богино бичвэр бичих эсвэл хуулж тавиад, загвар юу гэж үзсэнийг, яагаад гэдгийг нь хараарай.",
    text: "Бичвэр",
    placeholder: "Жишээ нь: Гэрээсээ 8 цагт гараад 9:30-д дараагийн буудал дээрээ ирлээ",
    explain: "Тайлбарлах",
    keys: "Ctrl + Enter",
    working: "Тооцож байна…",
    result: "Үр дүн",
    probabilities: "Магадлал",
    choose: "Шошго сонгоход доорх өнгө түүнийг тайлбарлана.",
    pieces: "Юу нөлөөлсөн бэ",
    toward: "дэмжсэн",
    against: "эсэргүүцсэн",
    about: "«{label}» шошгыг",
    point: "Хэсэг дээр заах юм уу дарна уу; Tab, сумтай товчоор ч болно.",
    effect: "{effect} · түүнгүйгээр {without}, түүнтэй {whole}",
    empty: "Бичвэрт тайлбарлах хэсэг алга.",
    truncated: "Бичвэр загварын уншдагаас урт тул бүдгэрүүлсэн төгсгөлийг уншаагүй.",
    method: "Хэсэг бүрийг ээлж дараалан {how}, дахин оноо тооцов. Тоо нь шошгын log-odds хэдээр өөрчлөгдсөнийг хэлнэ.",
    mask: "халхалж",
    deletion: "хасаж",
    attention: "Анхаарал",
    attentionLead: "Дөрвөлжин бүр нэг толгой: мөр нь давхарга. Нэгийг сонгоод, хэсэг дээр заахад хаашаа харж буй нь гарна.",
    caution: "Анхаарал нь мэдээлэл хаашаа урсахыг харуулна, шошгын шалтгааныг биш.",
    noAttention: "Энэ загвар анхаарлын толгойгүй экспортлогджээ (jirgee export --with-attention).",
    head: "Давхарга {layer}, толгой {head}",
    layer: "Давхарга {layer}",
    average: "Бүх толгойн дундаж",
    looks: "{piece} → {targets}",
    start: "эхлэл",
    end: "төгсгөл",
    file: "Бүтэн файл",
    fileLead: "CSV файлаа энд тавих эсвэл сонгоно уу. Багана бүр хэвээр үлдэж, шошго, оноо, магадлал нэмэгдэнэ.",
    chooseFile: "CSV сонгох",
    column: "Бичвэрийн багана",
    score: "Оноо тооцох",
    rows: "{name}: {rows} мөр",
    progress: "{rows} мөрөөс {done}",
    finished: "{rows} мөр бэлэн боллоо.",
    download: "Татаж авах",
    noRows: "Файлд мөр алга.",
    notCsv: "{line}-р мөр: хашилт хаагдаагүй, CSV файл биш бололтой.",
    theme: "Өнгө солих",
    language: "Хэл",
    token: "Нэвтрэх түлхүүр",
    tokenLead: "Энэ сервер түлхүүр шаарддаг.",
    enter: "Нэвтрэх",
    failed: "Болсонгүй: {reason}",
    unreachable: "сервер хариулахгүй байна",
    busy: "Сервер завгүй байна; {seconds} секундийн дараа дахин оролдоно.",
    api: "API",
  },
  en: {
    title: "жиргээ — what the model makes of a text, and why",
    lead: "Type or paste a short text and see what the model makes of it, and why.",
    text: "Text",
    placeholder: "For example: Гэрээсээ 8 цагт гараад 9:30-д дараагийн буудал дээрээ ирлээ",
    explain: "Explain",
    keys: "Ctrl + Enter",
    working: "Working…",
    result: "Result",
    probabilities: "Probabilities",
    choose: "Choose a label; the colours below then explain that one.",
    pieces: "What moved the score",
    toward: "for",
    against: "against",
    about: "“{label}”",
    point: "Point at a piece or tap it; Tab and the arrow keys work too.",
    effect: "{effect} · without it {without}, with it {whole}",
    empty: "There is nothing in the text to explain.",
    truncated: "The text is longer than the model reads; the pale end was not read.",
    method: "Each piece in turn was {how} and the text scored again. Numbers are changes of the log-odds.",
    mask: "masked",
    deletion: "left out",
    attention: "Attention",
    attentionLead: "Each square is a head, each row a layer. Choose one, then point at a piece to see where it looks.",
    caution: "Attention shows where information flows, not why the label was given.",
    noAttention: "This model was exported without its attention heads (jirgee export --with-attention).",
    head: "Layer {layer}, head {head}",
    layer: "Layer {layer}",
    average: "All heads, averaged",
    looks: "{piece} → {targets}",
    start: "start",
    end: "end",
    file: "A whole file",
    fileLead: "Drop a CSV here or choose one. Every column stays; label, score and probabilities are added.",
    chooseFile: "Choose a CSV",
    column: "Column of the texts",
    score: "Score it",
    rows: "{name}: {rows} rows",
    progress: "{done} of {rows} rows",
    finished: "{rows} rows are scored.",
    download: "Download",
    noRows: "The file has no rows.",
    notCsv: "line {line}: a quote is not closed; this does not look like a CSV file.",
    theme: "Light or dark",
    language: "Language",
    token: "Access token",
    tokenLead: "This server asks for a token.",
    enter: "Enter",
    failed: "That did not work: {reason}",
    unreachable: "the server does not answer",
    busy: "The server is busy; trying again in {seconds} s.",
    api: "API",
  },
};

const remember = {
  get(name) { try { return localStorage.getItem(`jirgee-${name}`); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(`jirgee-${name}`, value); } catch { /* a page opened from a file */ } },
};

let language = remember.get("language") || (/^en\b/i.test(navigator.language) ? "en" : "mn");

function say(word, values = {}) {
  return WORDS[language][word].replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

// An element with attributes, listeners (on…) and children; text is always text, never markup.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

// One stop for Tab; the arrow keys go from item to item, by `step(key)` places.
function roving(items, step, onFocus) {
  const choose = (place) => {
    items.forEach((item, index) => { item.tabIndex = index === place ? 0 : -1; });
  };
  items.forEach((item, index) => {
    item.addEventListener("focus", () => { choose(index); onFocus(index); });
    item.addEventListener("keydown", (event) => {
      const by = event.key === "Home" ? -index : event.key === "End" ? items.length - 1 - index : step(event.key);
      if (!by && !["Home", "End"].includes(event.key)) return;
      event.preventDefault();
      const next = items[index + by];
      if (next) next.focus();
    });
  });
  choose(0);
}

const along = (key) => ({ ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 })[key] || 0;
