"""The OpenAPI document as a page: every operation with its body, its answers and a form to try it. Nothing from another
host, so that it works without the internet."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } summary b { display: inline-block; min-width: 3.4rem; }
code, pre, textarea { font: 14px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .6rem; overflow: auto; border-radius: 4px; white-space: pre-wrap; }
textarea, input { width: 100%; box-sizing: border-box; padding: .4rem; }
table { border-collapse: collapse; } td { padding: .1rem .8rem .1rem 0; vertical-align: top; }
button { padding: .3rem 1rem; margin: .4rem 0; }
"""

_SCRIPT = """
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", async event => {
  event.preventDefault();
  const out = form.querySelector("output"), body = form.elements.body, query = new URLSearchParams();
  for (const input of form.querySelectorAll("input[data-query]")) query.set(input.name, input.value);
  const headers = {}, token = document.querySelector("#token");
  if (body) headers["content-type"] = "application/json";
  if (token && token.value) headers.authorization = "Bearer " + token.value;
  const url = form.dataset.path + (String(query) ? "?" + query : "");
  out.innerHTML = "<pre></pre>";
  try {
    const answer = await fetch(url, {method: form.dataset.method, headers, body: body && body.value});
    let text = await answer.text();
    try { text = JSON.stringify(JSON.parse(text), null, 1); } catch {}
    out.firstChild.textContent = answer.status + " " + answer.statusText + "\\n" + text;
  } catch (error) { out.firstChild.textContent = String(error); }
});
"""


def render(document: dict[str, Any]) -> str:
    """The page. ``document``: as ``openapi.document`` makes it."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])} API</title>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])} The document for machines: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    if "security" in document:
        parts.append("<p><label>Bearer token <input id=token type=password autocomplete=off></label></p>")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(path, method, operation))
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"<details id={escape(name)}><summary>{escape(name)}</summary>{_pre(schema)}</details>")
    parts.append(f"<script>{_SCRIPT}</script></html>")
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    parameters = operation.get("parameters", [])
    fields = [
        f"<label>{escape(p['name'])} "
        f'<input data-query name={escape(p["name"])} value="{escape(p.get("example", ""))}"></label>'
        for p in parameters
    ]
    if body:
        example = json.dumps(body["example"], ensure_ascii=False, indent=1)
        fields.append(f"<label>body <textarea name=body rows=5>{escape(example)}</textarea></label>")
    answers = "".join(
        f"<tr><td>{status}<td>{escape(answer['description'])}<td>{_schema_link(answer)}"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<details id={operation['operationId']}{' open' if body else ''}><summary><b>{method.upper()}</b> "
        f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary><p>{escape(operation['description'])}</p>"
        f'<form data-method={method.upper()} data-path="{escape(path.lstrip("/"))}">{"".join(fields)}'
        f"<button>Try it</button><output></output></form><table>{answers}</table></details>"
    )


def _schema_link(answer: dict[str, Any]) -> str:
    for kind, content in answer.get("content", {}).items():
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        return f'<a href="#{escape(name)}">{escape(name)}</a>' if name else escape(kind)
    return ""


def _pre(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, ensure_ascii=False, indent=1))}</pre>"
