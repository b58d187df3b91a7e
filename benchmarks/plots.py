"""Three pictures of a run: throughput against size, the latency of one text, the share of the machine's peak."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jirgee_train.charts import ACCENT, GRID, INK, MUTED, SECOND, STYLE

from .results import FAMILY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# The pages of the project colour by the reader's setting; a picture in a document has one colour for everyone.
COLORS = {INK: "#1a1a1a", MUTED: "#6b6b6b", GRID: "#dddddd", ACCENT: "#0a7d6c", SECOND: "#c9772b"}
OURS, OTHERS = COLORS[ACCENT], COLORS[MUTED]
DPI = 130


def draw_plots(result: dict[str, Any], out: Path) -> list[Path]:
    """Write CASE-throughput.png, CASE-latency.png and, where peaks were measured, CASE-peak.png into ``out``."""
    summary = result["summary"]
    if not summary:
        return []
    plots = {
        "throughput": (max(4.2, _height(summary) - 1), _throughput(summary)),
        "latency": (_height(summary), _latency(result)),
    }
    if shares := {name: row["peak_share"] for name, row in summary.items() if "peak_share" in row}:
        plots["peak"] = (_height(shares), _peak(result, shares))
    return [_draw(out / f"{result['case']}-{name}.png", height, paint) for name, (height, paint) in plots.items()]


def _height(rows: dict[str, Any]) -> float:
    return 1.0 + 0.33 * len(rows)


def _draw(path: Path, height: float, paint: Callable[[Axes], None]) -> Path:
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        name: COLORS.get(value, value) if isinstance(value, str) else value for name, value in STYLE.items()
    }
    with matplotlib.rc_context(style | {"figure.facecolor": "white", "axes.facecolor": "white"}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        paint(figure.subplots())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure.savefig(path, dpi=DPI)
    return path


def _color(name: str) -> str:
    return OURS if name.startswith(FAMILY) else OTHERS


def _throughput(summary: dict[str, dict[str, Any]]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        names = sorted(summary, key=lambda name: -summary[name]["unique_per_s"]["median"])
        sizes = [summary[name]["size_bytes"] / 1e6 for name in names]
        rates = [summary[name]["unique_per_s"]["median"] for name in names]
        low, high = min(rates) / 1.3, max(rates) * 1.3
        axes.set(xscale="log", yscale="log", xlabel="on disk, MB", ylabel="unique texts per second")
        axes.set_xlim(min(sizes) / 1.4, max(sizes) * 1.4)
        axes.set_ylim(low, high)
        axes.scatter(sizes, rates, color=[_color(name) for name in names], s=34, zorder=3)
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
        heights = [float(np.log(rate / low) / np.log(high / low)) for rate in rates]
        for name, size, rate, place in zip(names, sizes, rates, apart(heights, 1 / (len(names) + 3)), strict=True):
            axes.annotate(
                name,
                (size, rate),
                (1.06, place),
                textcoords="axes fraction",
                va="center",
                size=9,
                color=_color(name),
                weight="bold" if name.startswith(FAMILY) else "normal",
                arrowprops={
                    "arrowstyle": "-",
                    "relpos": (0, 0.5),
                    "color": _color(name),
                    "linewidth": 0.5,
                    "alpha": 0.6,
                },
                annotation_clip=False,
            )
        for axis in (axes.xaxis, axes.yaxis):
            _plain_log(axis)

    return paint


def _plain_log(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of every decade, written as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Falling ``heights`` from 1 to 0, moved so that each is ``least`` below the one before it and none below 0 (as far
    as there is room): places for labels that do not overlap."""
    placed: list[float] = []
    for height in heights:
        placed.append(min(height, placed[-1] - least) if placed else height)
    floor = 0.0
    for place in range(len(placed) - 1, -1, -1):
        placed[place] = max(placed[place], floor)
        floor = placed[place] + least
    return placed


def _latency(result: dict[str, Any]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        singles = {
            name: [value for found in result["peers"][name]["rounds"] for value in found["latency_ms"]]
            for name in result["summary"]
        }
        names = sorted(singles, key=lambda name: float(np.median(singles[name])))
        for place, name in enumerate(names):
            p5, p25, p50, p75, p95, p99 = np.percentile(singles[name], (5, 25, 50, 75, 95, 99))
            color = _color(name)
            axes.plot([p5, p95], [place, place], color=color, linewidth=1.2, solid_capstyle="butt")
            axes.plot([p25, p75], [place, place], color=color, linewidth=7, solid_capstyle="butt", alpha=0.55)
            axes.plot([p50], [place], "|", color=color, markersize=13, markeredgewidth=2.4)
            axes.plot([p99], [place], "o", color=color, markersize=3.5)
        axes.set_xscale("log")
        axes.set_xlabel("one text, ms: 5 to 95 %, middle half thick, median |, 99 % •")
        _names(axes, names)
        _plain_log(axes.xaxis)

    return paint


def _peak(result: dict[str, Any], shares: dict[str, dict[str, float]]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        names = sorted(shares, key=lambda name: -shares[name]["median"])
        values = [100 * shares[name]["median"] for name in names]
        axes.barh(range(len(names)), values, 0.62, color=[_color(name) for name in names])
        for place, (name, value) in enumerate(zip(names, values, strict=True)):
            precision = result["peers"][name]["precision"]
            axes.text(value + 1, place, f"{value:.0f} % of {precision}", va="center", size=9)
        axes.set_xlim(0, max(100, 1.25 * max(values)))
        axes.set_xlabel("share of the machine's peak for this precision, measured in the same run, %")
        _names(axes, names)

    return paint


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(_color(name))
        label.set_fontweight("bold" if name.startswith(FAMILY) else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
