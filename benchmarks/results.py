"""The rounds of a run -> medians, ratios with their spread, shares of the machine's peak, and the Markdown table.

Pure: takes what ``run.py`` wrote as JSON. A ratio is formed within each round, where both sides met the same moment of
the machine, and told as the median of the rounds with the smallest and the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .cases import Shape

NAIVE = "pytorch-naive"
FAMILY = "ours-"


def operations(shape: Shape, lengths: Sequence[int], first_token: bool = False) -> float:
    """Operations (2 for a multiply-add) of the matrix products of one text, on average over ``lengths`` (tokens).

    Padding is not counted: it is work that nobody asked for. ``first_token``: behind the last layer's attention only
    the first token is computed.
    """
    length = np.asarray(lengths, dtype=float)
    width, inner = shape.width, shape.inner
    attention = 2 * length * 3 * width * width + 4 * length * length * width
    rest = 2 * width * width + 4 * width * inner
    layers = shape.layers * (attention + length * rest)
    if first_token:
        layers -= (length - 1) * rest
    return float(layers.mean())


def agreement(probs: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Share of equal labels and the change of a probability, of [n, k] against the first n rows of the reference."""
    reference = reference[: len(probs)]
    change = np.abs(probs - reference)
    same = probs.argmax(axis=1) == reference.argmax(axis=1)
    return {
        "labels": float(same.mean()),
        "max_change": float(change.max()),
        "mean_change": float(change.mean()),
        "texts": len(probs),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Quotients round by round -> their median and spread."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def fastest(rounds: dict[str, list[dict[str, Any]]]) -> str | None:
    """The name with the highest median of unique texts a second; None if nobody has run."""
    medians = {
        name: float(np.median([found["unique_per_s"] for found in given])) for name, given in rounds.items() if given
    }
    return max(medians, key=lambda name: medians[name], default=None)


def summarise(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Peer -> figures, for those that ran every round."""
    shape, lengths = Shape(**result["shape"]), result["texts"]["lengths"]
    ran = {name: peer for name, peer in result["peers"].items() if peer.get("rounds")}
    speeds = {name: [r["unique_per_s"] for r in peer["rounds"]] for name, peer in ran.items()}
    peaks = {kind: [found[kind] for found in result["peaks"]] for kind in (result["peaks"] or [{}])[0]}
    ours = fastest({name: peer["rounds"] for name, peer in ran.items() if name.startswith(FAMILY)})
    summary: dict[str, dict[str, Any]] = {}
    for name, peer in ran.items():
        rounds = peer["rounds"]
        singles = [value for found in rounds for value in found["latency_ms"]]
        row: dict[str, Any] = {
            "unique_per_s": spread(speeds[name]),
            "latency_ms": {f"p{p}": float(np.percentile(singles, p)) for p in (50, 95, 99)},
            "p50_ms": spread([float(np.median(found["latency_ms"])) for found in rounds]),
            "cold_start_s": spread([found["cold_start_s"] for found in rounds]),
            "first_rss_bytes": max(found["first_rss_bytes"] for found in rounds),
            "peak_rss_bytes": max(found["peak_rss_bytes"] for found in rounds),
            "size_bytes": peer["size_bytes"],
            "agreement": peer.get("agreement"),
        }
        for key in ("raw_per_s", "dump_per_s", "dump_gain"):
            if values := [found[key] for found in rounds if key in found]:
                row[key] = spread(values)
        if NAIVE in speeds:
            row["times_naive"] = ratio(speeds[name], speeds[NAIVE])
        if ours:
            row["ours_over_it"] = ratio(speeds[ours], speeds[name])
        if peaks.get(peer["precision"]):
            each = operations(shape, lengths, peer["first_token"])
            row["peak_share"] = spread([each * speed / max(peaks[peer["precision"]]) for speed in speeds[name]])
        summary[name] = row
    return summary


def verdict(result: dict[str, Any], summary: dict[str, dict[str, Any]]) -> list[str]:
    """The best of ours against the best of the others, in sentences."""
    models = [name for name in summary if result["peers"][name]["precision"] != "other" and not _special(result, name)]
    ours = [name for name in models if name.startswith(FAMILY)]
    others = [name for name in models if not name.startswith(FAMILY)]
    if not ours or not others:
        return []
    lines = []
    fast, peer = (max(names, key=lambda name: summary[name]["unique_per_s"]["median"]) for names in (ours, others))
    speeds = {name: [found["unique_per_s"] for found in result["peers"][name]["rounds"]] for name in (fast, peer)}
    lines.append(f"Unique texts: {fast} is {_times(ratio(speeds[fast], speeds[peer]))} the best peer, {peer}.")
    if NAIVE in summary:
        lines.append(f"It is {_times(summary[fast]['times_naive'])} the naive way.")
    if "dump_gain" in summary[fast]:
        gain = summary[fast]["dump_gain"]["median"]
        lines.append(f"The file as it is, repeats and all: {gain:.2f} times more on top.")
    quick, rival = (min(names, key=lambda name: summary[name]["p50_ms"]["median"]) for names in (ours, others))
    share = summary[quick]["p50_ms"]["median"] / summary[rival]["p50_ms"]["median"]
    lines.append(f"One text: {quick} takes {share:.2f} of the time of the best peer, {rival} (p50).")
    cold, first = (min(names, key=lambda name: summary[name]["cold_start_s"]["median"]) for names in (ours, others))
    lines.append(
        f"Cold start: {cold} {summary[cold]['cold_start_s']['median']:.2f} s, "
        f"best peer {first} {summary[first]['cold_start_s']['median']:.2f} s."
    )
    small, lean = (min(names, key=lambda name: summary[name]["peak_rss_bytes"]) for names in (ours, others))
    lines.append(
        f"Peak memory: {small} {summary[small]['peak_rss_bytes'] / 2**20:.0f} MiB, "
        f"best peer {lean} {summary[lean]['peak_rss_bytes'] / 2**20:.0f} MiB."
    )
    return lines


def _special(result: dict[str, Any], name: str) -> bool:
    """Whether a peer runs a model of its own, so that it is shown and not compared."""
    return not result["peers"][name]["comparable"]


def _times(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} times ({value['min']:.2f} to {value['max']:.2f})"


COLUMNS = (
    "texts/s",
    "min–max",
    "× naive",
    "ours ÷ it",
    "raw texts/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "cold start s",
    "RSS at first score MiB",
    "peak RSS MiB",
    "on disk MB",
    "labels equal",
    "largest change",
    "share of peak",
)


def table(result: dict[str, Any]) -> str:
    """Markdown: a heading, what was measured, the table (fastest first), the verdict, and who could not be measured."""
    summary, shape, texts = result["summary"], result["shape"], result["texts"]
    machine = result["machine"]
    dot = "8-bit dot products" if machine["int8_dot"] else "no 8-bit dot products"
    lines = [
        f"### {result['case']}: {shape['layers']} layers, {shape['width']} wide, {shape['vocabulary']:,} pieces",
        "",
        f"{machine['cpu']}, {machine['cpus']} processors, {dot}; {result['date'][:10]}, commit "
        f"{(result['commit'] or 'unknown')[:10]}{' with changes' if result['dirty'] else ''}; {texts['unique']} unique "
        f"texts of {texts['tokens']:.1f} tokens on average from {texts['source']}; {result['rounds']} rounds.",
        "",
        "| | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for name in sorted(summary, key=lambda name: -summary[name]["unique_per_s"]["median"]):
        lines.append(f"| {_bold(name)} | " + " | ".join(_cells(summary[name])) + " |")
    if result["peaks"]:
        highest = {kind: max(found[kind] for found in result["peaks"]) / 1e9 for kind in result["peaks"][0]}
        told = f"Peaks in the same run: u8 × s8 {highest['int8']:.0f} GOP/s, fp32 {highest['fp32']:.0f} GFLOP/s."
        lines += ["", told]
    if sentences := verdict(result, summary):
        lines += ["", *(f"- {sentence}" for sentence in sentences)]
    dumped = [name for name in summary if "dump_per_s" in summary[name]]
    for name in dumped:
        lines.append(
            f"- {name} on {texts['dump']:,} rows as they are ({texts['repeats']:.0%} repeats): "
            f"{summary[name]['dump_per_s']['median']:,.0f} texts/s."
        )
    missing = {name: peer["skipped"] for name, peer in result["peers"].items() if peer.get("skipped")}
    if missing:
        lines += ["", "Not measured:", "", *(f"- {name}: {why}" for name, why in missing.items())]
    return "\n".join(lines) + "\n"


def _bold(name: str) -> str:
    return f"**{name}**" if name.startswith(FAMILY) else name


def _cells(row: dict[str, Any]) -> list[str]:
    def middle(key: str, form: str) -> str:
        return form.format(row[key]["median"]) if key in row else "–"

    rate, latency, agreed = row["unique_per_s"], row["latency_ms"], row["agreement"]
    return [
        _rate(rate["median"]),
        f"{_rate(rate['min'])}–{_rate(rate['max'])}",
        middle("times_naive", "{:.1f}"),
        middle("ours_over_it", "{:.2f}"),
        _rate(row["raw_per_s"]["median"]) if "raw_per_s" in row else "–",
        *(f"{latency[p]:.2f}" for p in ("p50", "p95", "p99")),
        middle("cold_start_s", "{:.2f}"),
        f"{row['first_rss_bytes'] / 2**20:.0f}",
        f"{row['peak_rss_bytes'] / 2**20:.0f}",
        f"{row['size_bytes'] / 1e6:.1f}",
        f"{agreed['labels']:.1%}" if agreed else "–",
        f"{agreed['max_change']:.1g}" if agreed else "–",
        middle("peak_share", "{:.0%}"),
    ]


def _rate(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
