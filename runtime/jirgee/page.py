"""The look of every report, of all stages: one HTML page that asks no other host for anything and needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f8; --ink: #1b2026; --muted: #5d6873; --line: #dce0e4; --accent: #1d6f8f;
  --second: #b9793a; }
@media (prefers-color-scheme: dark) { :root {
  --page: #13171b; --card: #1b2126; --ink: #e8ebee; --muted: #9aa6b1; --line: #323a42; --accent: #5db0cd;
  --second: #d09a63; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .25rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.note, figcaption, dt, th, .tile span { color: var(--muted); }
.note, figcaption { font-size: .9rem; }
.tiles, .cards { display: grid; gap: 1rem; margin: 1rem 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tile, figure, .card { background: var(--card); border-radius: .6rem; padding: 1rem 1.1rem; }
.tile b { display: block; font-size: 1.9rem; line-height: 1.15; font-variant-numeric: tabular-nums; }
.tile span { font-size: .9rem; line-height: 1.35; display: block; margin-top: .2rem; }
.cards { grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; max-width: 27rem; height: auto; margin: .5rem 0; }
figure svg text { font-family: inherit !important; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th { text-align: left; font-weight: 500; font-size: .85rem; vertical-align: bottom; }
th, td { padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--line); }
tr > :last-child { padding-right: 0; }
tbody tr:last-child > * { border-bottom: 0; }
td { vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { white-space: normal; }
.tweet { overflow-wrap: anywhere; }
.tweets td:not(.tweet) { white-space: nowrap; }
.tweets small { display: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; margin: .5rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
@media (max-width: 34rem) {
  main { padding: 1.25rem .9rem 2rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .6rem; }
  .tile, figure, .card { padding: .85rem .9rem; }
  .tile b { font-size: 1.6rem; }
  table { font-size: .875rem; }
  th { font-size: .8rem; }
  th, td { padding-right: .6rem; }
  .tweets .wide { display: none; }
  .tweets small { display: block; color: var(--muted); }
}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def head(title: str, style: str, policy: str, language: str = "en") -> str:
    """A page up to its body: it stands alone, and ``policy`` says what it may load and run."""
    return f"""<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{style}</style>
</head>"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole page; ``body`` is HTML, ``style`` the CSS that it needs beyond the common one."""
    return f"""{head(title, STYLE + style, POLICY)}
<body>
<main>
{body}
</main>
</body>
</html>
"""


def figure(title: str, svg: str, caption: str) -> str:
    return f"<figure><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>"


def tiles(shown: Sequence[tuple[str, str]]) -> str:
    """Figures that stand out: (value, what it is)."""
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b><span>{escape(what)}</span></div>' for value, what in shown)
        + "</div>"
    )


def facts(shown: dict[str, str]) -> str:
    return (
        "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in shown.items()) + "</dl>"
    )
