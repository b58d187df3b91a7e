"""Numbers -> inline SVG, drawn by matplotlib.

Text stays text, in the page's own font; colours are the page's CSS variables, so that a chart follows the reader's
light or dark setting.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jirgee.errors import optional_import

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib draws in these stand-ins, which become the CSS variables of page.py.
INK, MUTED, GRID, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", ACCENT: "--accent", SECOND: "--second"}
WIDTH = 4.7  # inches; a chart is shown at the width of a phone or of a column
BAR = 0.6
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.size": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def shares(counts: Sequence[tuple[str, int]]) -> str:
    """A bar for each (class, rows), with its share of all rows."""
    total = sum(count for _, count in counts) or 1

    def paint(axes: Axes) -> None:
        values = [count / total for _, count in counts]
        _bars(axes, [name for name, _ in counts], values, [f"{share:.1%}" for share in values])

    return _draw("shares", 0.7 + 0.62 * len(counts), paint)


def confidence(values: np.ndarray, k: int) -> str:
    """Histogram of the probability of the predicted class, which is at least 1 / ``k``."""

    def paint(axes: Axes) -> None:
        low = np.floor(20 / k) / 20
        axes.hist(values, bins=np.linspace(low, 1, 21), color=ACCENT, rwidth=0.88)  # pyright: ignore[reportArgumentType]
        axes.set_xlim(low, 1)
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("tweets")
        axes.grid(axis="y", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", pad=6)
        axes.spines["left"].set_visible(False)

    return _draw("confidence", 2.6, paint)


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Rows are the true classes, columns the predicted ones; the darker a cell, the larger its share of the row."""

    def paint(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        k = len(classes)
        for row, counts in enumerate(matrix):
            for column, count in enumerate(counts):
                strength = 0.04 + 0.5 * count / (sum(counts) or 1)
                color = ACCENT if row == column else SECOND
                axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, color=color, lw=0, alpha=strength))
                axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", size=14 if k < 5 else 10)
        axes.set(xlim=(0, k), ylim=(k, 0), xlabel="predicted", ylabel="true")
        middles = np.arange(k) + 0.5
        axes.set_xticks(middles, [_short(name) for name in classes], color=INK, rotation=0 if k < 4 else 60)
        axes.set_yticks(middles, [_short(name) for name in classes], color=INK)
        axes.spines[["left", "bottom"]].set_visible(False)

    return _draw("confusion", max(2.6, 0.9 + 0.4 * len(classes)), paint)


def quality(names: Sequence[str], accuracy: Sequence[float], macro_f1: Sequence[float]) -> str:
    """Two bars for each form of the model."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(names))
        for offset, values, color, label in (
            (-0.19, accuracy, ACCENT, "accuracy"),
            (0.19, macro_f1, SECOND, "macro F1"),
        ):
            axes.barh(places + offset, values, 0.34, color=color, label=label)
            for place, value in zip(places + offset, values, strict=True):
                axes.text(value + 0.015, place, f"{value:.3f}", va="center", size=10)
        _finish(axes, names, 1.0)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, handlelength=0.9, borderpad=0
        )

    return _draw("quality", 0.8 + 0.75 * len(names), paint)


def rates(bars: Sequence[tuple[str, float, str]]) -> str:
    """A bar for each (name, tweets per second, the same as text); the first, which the rest beat, in grey."""
    names, values, shown = zip(*bars, strict=True)
    colors = [MUTED] + [ACCENT] * (len(bars) - 1)
    return _draw("rates", 0.5 + 0.72 * len(bars), lambda axes: _bars(axes, names, values, shown, colors))


def _bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], shown: Sequence[str], colors: Any = ACCENT
) -> None:
    axes.barh(np.arange(len(names)), values, BAR, color=colors)
    longest = max(values, default=1) or 1
    for place, (value, text) in enumerate(zip(values, shown, strict=True)):
        axes.text(value + 0.015 * longest, place, text, va="center", weight="bold")
    _finish(axes, names, longest)


def _finish(axes: Axes, names: Sequence[str], longest: float) -> None:
    """Bars from zero, read by the numbers beside them: no axis, the names in ink."""
    axes.set_xlim(0, 1.16 * longest)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_yticks(np.arange(len(names)), [_short(name) for name in names], color=INK)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _short(name: str, longest: int = 22) -> str:
    return "\n".join(line if len(line) <= longest else line[: longest - 1] + "…" for line in name.split("\n"))


def _draw(name: str, height: float, paint: Any) -> str:
    """An ``<svg>`` element without fixed size, metadata or ids that another chart could have too."""
    matplotlib = optional_import("matplotlib", "jirgee[report]", "a chart")
    figure_module = optional_import("matplotlib.figure", "jirgee[report]", "a chart")
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the font
        figure = figure_module.Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg")
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.strip()
