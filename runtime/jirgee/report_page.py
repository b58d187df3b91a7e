"""The figures of a scored file -> one HTML page that asks no other host for anything and needs no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date
from html import escape

from .page import document, figure, tiles
from .scored import BINS, Figures, Shown

PERIODS = 48  # columns along the axis of time, at most
COLORS = ("#2a7d9c", "#c0803f", "#6f9440", "#93649f", "#bb5563", "#5585b5", "#968a3c", "#5fa08c")
OTHER, NONE = "other", "no label"  # classes beyond the colours; rows on which the model abstained
WIDTH, HEIGHT, LEFT = 460, 170, 46

STYLE = """
.cards { grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.tile span { overflow-wrap: anywhere; }
figure svg { max-width: none; }
svg text { fill: var(--muted); font-size: 13px; }
svg line { stroke: var(--line); }
ul { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0; margin: 0; font-size: .9rem; }
figure li svg { display: inline-block; width: .8rem; margin: 0 .35rem 0 0; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
td:last-child { white-space: normal; overflow-wrap: anywhere; width: 100%; }
@media (max-width: 34rem) { td { white-space: normal; } }
"""


def render(figures: Figures, name: str, bundle: str) -> str:
    """The whole page. ``name``: of the scored file; ``bundle``: what scored it."""
    parts = _parts(figures)
    total = max(1, figures.rows)
    shown = [(f"{figures.rows:,}", "rows scored")]
    shown += [(f"{count(figures.labels) / total:.1%}", part) for part, _, count in parts]
    charts = figure("How sure is the model?", _confidence(figures), "Rows by the probability of their best label.")
    if figures.dated:
        charts = _over_time(figures, parts) + charts
    body = f"""<h1>{escape(name)}</h1>
<p class="note">Scored by {escape(bundle)}</p>
{tiles(shown)}
<div class="cards">{charts}</div>
<h2>The surest</h2>
{_table(figures.surest)}
<h2>The least sure</h2>
{_table(figures.least_sure)}"""
    return document(f"{name}: scores", body, STYLE)


Count = Callable[[dict[str, int]], int]


def _parts(figures: Figures) -> list[tuple[str, str, Count]]:
    """(name, colour, how many of a label -> rows table) of what is told apart: classes, and what is left of them."""
    classes = list(figures.classes)
    if len(classes) > len(COLORS):
        common = sorted(classes, key=lambda label: -figures.labels[label])[: len(COLORS) - 1]
        classes = [label for label in classes if label in common]

    def of(wanted: Sequence[str]) -> Count:
        return lambda labels: sum(labels.get(label, 0) for label in wanted)

    parts = [(label, color, of([label])) for label, color in zip(classes, COLORS, strict=False)]
    if rest := [label for label in figures.classes if label not in classes]:
        parts.append((OTHER, COLORS[-1], of(rest)))
    return [*parts, (NONE, "#9aa6b1", of([""]))] if figures.labels[""] else parts


def _svg(what: str, body: str, height: int = HEIGHT + 24) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(what)}">{body}</svg>'


def _axis(labels: Sequence[tuple[float, str]]) -> str:
    """Lines across, at shares of the height from below."""
    return "".join(
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{(y := 10 + (HEIGHT - 10) * (1 - share)):.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        for share, label in labels
    )


def _bar(x: float, width: float, low: float, high: float, color: str, title: str) -> str:
    """``low``, ``high``: shares of the height."""
    scale = HEIGHT - 10
    return (
        f'<rect x="{x:.1f}" y="{10 + scale * (1 - high):.1f}" width="{width:.1f}" height="{scale * (high - low):.1f}" '
        f'style="fill: {color}"><title>{escape(title)}</title></rect>'
    )


def _confidence(figures: Figures) -> str:
    first = min(BINS // max(1, len(figures.classes)), BINS - 1)  # a best label has at least 1 / classes
    counts, most, step = figures.confidence[first:], max(1, *figures.confidence), (WIDTH - LEFT - 8) / (BINS - first)
    bars, marks = [], []
    for index, count in enumerate(counts):
        x, low = LEFT + index * step, (first + index) / BINS
        title = f"{low:.2f} to {low + 1 / BINS:.2f}: {count:,} rows"
        bars.append(_bar(x + 1, step - 2, 0, count / most, "var(--accent)", title))
        if (first + index) % 2 == 0:
            marks.append(f'<text x="{x:.1f}" y="{HEIGHT + 18}" text-anchor="middle">{low:.1f}</text>')
    marks.append(f'<text x="{WIDTH - 8}" y="{HEIGHT + 18}" text-anchor="middle">1</text>')
    return _svg("histogram of confidence", _axis([(0, "0"), (1, _short(most))]) + "".join(bars + marks))


def _short(count: int) -> str:
    return next((f"{count / size:.3g}{unit}" for size, unit in ((1e6, "M"), (1e3, "k")) if count >= size), str(count))


def _over_time(figures: Figures, parts: Sequence[tuple[str, str, Count]]) -> str:
    first, last = min(figures.periods), max(figures.periods)
    width = math.ceil((last - first + 1) / PERIODS)
    columns: dict[int, list[int]] = {}
    for period, labels in figures.periods.items():
        column = columns.setdefault((period - first) // width, [0] * len(parts))
        for index, (_, _, count) in enumerate(parts):
            column[index] += count(labels)
    total, days = (last - first) // width + 1, width * figures.days
    step, body = (WIDTH - LEFT) / total, [_axis([(0, "0"), (0.5, "50%"), (1, "100%")])]

    def day(column: int) -> str:
        return date.fromordinal(max(1, (first + column * width) * figures.days)).isoformat()

    for place, counts in sorted(columns.items()):
        rows, low = sum(counts), 0.0
        for (name, color, _), count in zip(parts, counts, strict=True):
            title, gap = f"{day(place)}: {name} {count / rows:.1%} of {rows:,}", min(1.0, step * 0.1)
            body.append(_bar(LEFT + place * step, step - gap, low, low := low + count / rows, color, title))
    for place, anchor in ((0, "start"), (total // 2, "middle"), (total - 1, "end"))[:: 1 if total > 4 else 2][:total]:
        x = LEFT + step * (place + {"start": 0, "middle": 0.5, "end": 1}[anchor])
        body.append(f'<text x="{x:.1f}" y="{HEIGHT + 18}" text-anchor="{anchor}">{day(place)}</text>')
    dots = "".join(
        f'<li><svg viewBox="0 0 10 10"><rect width="10" height="10" rx="2" style="fill: {color}"/></svg>'
        f"{escape(name)}</li>"
        for name, color, _ in parts
    )
    span = "one day" if days == 1 else f"{days} days"
    caption = f"Share of each label, of the {figures.dated:,} rows with a created_at. A column is {span}."
    return figure("Labels over time", _svg("label shares over time", "".join(body)) + f"<ul>{dots}</ul>", caption)


def _table(rows: Sequence[Shown]) -> str:
    body = "".join(
        f'<tr><td>{row.score:.3f}</td><td>{escape(row.label or NONE)}</td><td dir="auto">{escape(row.text)}</td></tr>'
        for row in rows
    )
    head = "<tr><th>score</th><th>label</th><th>text</th></tr>"
    return f'<div class="card"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
