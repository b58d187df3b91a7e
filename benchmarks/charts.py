"""The charts of the demo report, in the style of ``jirgee_train.charts``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jirgee_train.charts import ACCENT, INK, MUTED, SECOND, confusion, draw, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 0.6

__all__ = ["confidence", "confusion", "quality", "rates", "shares"]


def shares(counts: Sequence[tuple[str, int]]) -> str:
    """A bar for each (class, rows), with its share of all rows."""
    total = sum(count for _, count in counts) or 1

    def paint(axes: Axes) -> None:
        values = [count / total for _, count in counts]
        _bars(axes, [name for name, _ in counts], values, [f"{share:.1%}" for share in values])

    return draw("shares", 0.7 + 0.62 * len(counts), paint)


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

    return draw("confidence", 2.6, paint)


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

    return draw("quality", 0.8 + 0.75 * len(names), paint)


def rates(bars: Sequence[tuple[str, float, str]]) -> str:
    """A bar for each (name, tweets per second, the same as text); the first, which the rest beat, in grey."""
    names, values, shown = zip(*bars, strict=True)
    colors = [MUTED] + [ACCENT] * (len(bars) - 1)
    return draw("rates", 0.5 + 0.72 * len(bars), lambda axes: _bars(axes, names, values, shown, colors))


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
    axes.set_yticks(np.arange(len(names)), [short(name) for name in names], color=INK)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
