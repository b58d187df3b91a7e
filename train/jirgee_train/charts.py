"""Numbers -> inline SVG, drawn by matplotlib.

Text stays text, in the page's own font; colours are the page's CSS variables, so that a chart follows the reader's
light or dark setting.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jirgee.errors import optional_import

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib draws in these stand-ins, which become the CSS variables of ``page.py``.
INK, MUTED, GRID, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", ACCENT: "--accent", SECOND: "--second"}
WIDTH = 4.7  # inches; a chart is shown at the width of a phone or of a column
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
        axes.set_xticks(middles, [short(name) for name in classes], color=INK, rotation=0 if k < 4 else 60)
        axes.set_yticks(middles, [short(name) for name in classes], color=INK)
        axes.spines[["left", "bottom"]].set_visible(False)

    return draw("confusion", max(2.6, 0.9 + 0.4 * len(classes)), paint)


def learning_curves(train: Sequence[tuple[float, float]], dev: Sequence[tuple[float, float, float]]) -> str:
    """Loss by epoch of train (epoch, loss), and of dev with its accuracy (epoch, loss, accuracy)."""

    def paint(axes: Axes) -> None:
        for points, color, label in ((train, SECOND, "loss, train"), (dev, ACCENT, "loss, dev")):
            axes.plot([point[0] for point in points], [point[1] for point in points], "o-", color=color, label=label)
        axes.plot([point[0] for point in dev], [point[2] for point in dev], "o--", color=INK, label="accuracy, dev")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)  # pyright: ignore[reportCallIssue]
        axes.grid(axis="y", linewidth=0.6)
        axes.spines["left"].set_visible(False)
        _legend(axes, 3)

    return draw("learning", 2.9, paint)


def reliability(before: Sequence[dict[str, float]], after: Sequence[dict[str, float]], k: int) -> str:
    """Accuracy by confidence; each bin has ``confidence``, ``accuracy`` and ``n``, which the dot's area shows."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        total = sum(part["n"] for part in after) or 1
        for bins, color, label in ((before, SECOND, "before"), (after, ACCENT, "after")):
            x, y = [part["confidence"] for part in bins], [part["accuracy"] for part in bins]
            axes.plot(x, y, color=color, linewidth=1.2, alpha=0.6)
            axes.scatter(x, y, [12 + 500 * part["n"] / total for part in bins], color=color, alpha=0.75, label=label)
        axes.set(xlim=(1 / k - 0.02, 1.02), ylim=(-0.02, 1.06), xlabel="confidence", ylabel="accuracy")
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
        handles = _legend(axes, 2).legend_handles
        for handle in handles:
            handle.set_sizes([40])  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]

    return draw("reliability", 2.9, paint)


def _legend(axes: Axes, columns: int) -> Any:
    return axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        frameon=False,
        borderpad=0,
        handlelength=1.2,
        columnspacing=1.2,
        fontsize=10,
    )


def short(name: str, longest: int = 22) -> str:
    return "\n".join(line if len(line) <= longest else line[: longest - 1] + "…" for line in name.split("\n"))


def draw(name: str, height: float, paint: Callable[[Axes], None]) -> str:
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
