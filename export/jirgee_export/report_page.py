"""``report.json`` -> ``report.html``: every recipe that was tried, how fast and how faithful it is.

One page that asks no other host for anything and needs no script.
"""

from __future__ import annotations

import math
from html import escape
from json import loads
from typing import Any

from jirgee.page import document, figure, tiles

from .quantise import RECIPES

PAGE = "report.html"
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 320, 64, 44
FLOOR = 1e-6  # changes of a probability below are float rounding, drawn on one line

OWN_STYLE = """
.refused { color: var(--muted); } tr.chosen td, tr.chosen th { font-weight: 700; }
figure svg { max-width: 44rem; } table { font-size: .9rem; }
td { text-align: right; } td:last-child { text-align: left; }
"""


def render(report: str) -> str:
    """The whole page from the text of ``report.json``."""
    data = loads(report)
    recipes: dict[str, dict[str, Any]] = data["recipes"]
    chosen = recipes[data["chosen"]]
    where = (
        f"{data['texts']} held-out texts of {data['gate']['data']}"
        if data["gate"]["data"]
        else (f"{data['texts']} strings of random pieces (no data was given)")
    )
    shown = [(data["chosen"], "recipe of this bundle"), (f"{chosen['size'] / 1e6:.1f} MB", "model and tokenizer")]
    shown.append((f"{chosen['flips']} of {chosen['texts']}", "labels that differ from PyTorch's"))
    if chosen["accuracy"]:
        shown.append((f"{chosen['accuracy'][1]:.1%}", f"accuracy; {chosen['accuracy'][0]:.1%} in PyTorch"))
    if chosen["speed"]:
        shown.append((f"{chosen['speed']['rate']:.0f}", "texts a second on the machine below"))
    picture = ""
    if len([row for row in recipes.values() if row["speed"]]) > 1:
        caption = (
            "Right is faster, down is more faithful to the checkpoint. The line joins the recipes that no other beats "
            "in both; hollow ones were refused by the gate. Numbers are those of the table."
        )
        picture = figure("Speed against faithfulness", _scatter(data), caption)
    limits = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in data["gate"]["limits"].items())
    machine = ", ".join(f"{name} {value}" for name, value in data["machine"].items())
    body = f"""<h1>What did this export keep?</h1>
<p class="note">Each recipe against the checkpoint in PyTorch fp32, on {escape(where)}. Limits: {escape(limits)}.</p>
{tiles(shown)}
{picture}
<h2>Every recipe that was tried</h2>
<div class="card" style="overflow-x:auto">{_table(data)}</div>
{_recall(chosen)}
<footer class="note">Texts a second and p50 are counted in processor time, recipes in turn, best of the rounds; memory
is the peak of a process of its own. {escape(machine)}</footer>"""
    return document("jirgee: what the export kept", body, OWN_STYLE)


def _scatter(data: dict[str, Any]) -> str:
    points = [
        (number, name, row["speed"]["rate"], max(row["mean_change"], FLOOR), not row["failures"])
        for number, (name, row) in enumerate(data["recipes"].items(), 1)
        if row["speed"]
    ]
    fastest = 1.08 * max(rate for _, _, rate, _, _ in points)
    low = math.floor(math.log10(min(change for *_, change, _ in points)))
    high = math.ceil(math.log10(max(change for *_, change, _ in points)) + 1e-9)
    high = max(high, low + 1)

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - 16) * rate / fastest

    def y(change: float) -> float:
        return 12 + (HEIGHT - BOTTOM - 12) * (high - math.log10(change)) / (high - low)

    parts = []
    for power in range(low, high + 1):
        place = y(10.0**power)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    step = 10 ** math.floor(math.log10(fastest))
    step = step if fastest / step >= 4 else step / 4
    for count in range(int(fastest // step) + 1):
        parts.append(f'<text x="{x(count * step):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{count * step:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">texts a second</text>')
    parts.append(f'<text x="{LEFT + 4}" y="10">mean change of a probability</text>')
    front = pareto([(rate, change) for _, _, rate, change, _ in points])
    line = " ".join(f"{x(rate):.1f},{y(change):.1f}" for rate, change in front)
    parts.append(f'<polyline points="{line}" style="fill:none;stroke:var(--line);stroke-width:2"/>')
    for number, name, rate, change, passed in points:
        color = "var(--accent)" if name == data["chosen"] else "var(--muted)"
        fill, ink = (color, "var(--page)") if passed else ("var(--page)", color)
        parts.append(
            f"<g><title>{number} {escape(name)}: {rate:.0f} a second, {change:.2g}</title>"
            f'<circle cx="{x(rate):.1f}" cy="{y(change):.1f}" r="10" style="fill:{fill};stroke:{color}"/>'
            f'<text x="{x(rate):.1f}" y="{y(change) + 4:.1f}" text-anchor="middle" style="fill:{ink};font-size:11px">'
            f"{number}</text></g>"
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="speed and faithfulness">{"".join(parts)}</svg>'


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (rate, change) those that no other is faster and more faithful than, by rising rate."""
    front: list[tuple[float, float]] = []
    for rate, change in sorted(points, key=lambda point: (-point[0], point[1])):
        if not front or change < front[-1][1]:
            front.append((rate, change))
    return front[::-1]


def _table(data: dict[str, Any]) -> str:
    head = ("", "recipe", "accuracy", "macro F1", "ECE", "flips", "mean change", "largest", "batch effect", "MB",
            "texts/s", "p50 ms", "RSS MB", "safe on", "gate")  # fmt: skip
    rows = []
    for number, (name, row) in enumerate(data["recipes"].items(), 1):
        speed = row["speed"]
        cells = [
            str(number),
            f'<span title="{escape(RECIPES[name].about)}; {escape(RECIPES[name].why)}">{escape(name)}</span>',
            *(f"{row[figure][1]:.4f}" if row[figure] else "-" for figure in ("accuracy", "macro_f1", "ece")),
            f"{row['flips']}",
            f"{row['mean_change']:.4f}",
            f"{row['max_change']:.4f}",
            f"{row['batch_effect']:.4f}",
            f"{row['size'] / 1e6:.1f}",
            *((f"{speed['rate']:.0f}", f"{speed['p50_ms']:.1f}", f"{speed['rss'] / 1e6:.0f}") if speed else "---"),
            "any CPU" if row["safe_on"] == "any" else "8-bit dot products",
            escape("; ".join(row["failures"]) or ("passed, chosen" if name == data["chosen"] else "passed")),
        ]
        kind = "chosen" if name == data["chosen"] else "refused" if row["failures"] else ""
        rows.append(f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _recall(chosen: dict[str, Any]) -> str:
    if not chosen["recall"]:
        return ""
    rows = "".join(
        f"<tr><td>{escape(label)}</td><td>{before:.4f}</td><td>{after:.4f}</td></tr>"
        for label, (before, after) in chosen["recall"].items()
    )
    head = "<tr><th>recall of</th><th>checkpoint</th><th>bundle</th></tr>"
    return f'<h2>By class</h2><div class="card"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
