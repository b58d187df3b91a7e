"use strict";
// A shared page: the explanation stands in the page itself.

const shared = JSON.parse(document.getElementById("data").textContent);
onLanguage = () => showExplanation(document.getElementById("explanation"), shared);
translate();
