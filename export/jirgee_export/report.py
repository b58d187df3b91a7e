"""What was tried and found, for people on a terminal and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps

from .trial import Evidence, Trial
from .trim import Trimming
from .verify import Limits

COLUMNS = (
    ("recipe", 17),
    ("accuracy", 9),
    ("flips", 7),
    ("mean change", 12),
    ("batch effect", 13),
    ("MB", 7),
    ("tweets/s", 9),
    ("p50 ms", 7),
    ("RSS MB", 7),
)


def table(trials: Mapping[str, Trial], chosen: str = "") -> str:
    """A line for each recipe, and the gate's verdict."""
    lines = ["".join(_cell(name, width, i) for i, (name, width) in enumerate(COLUMNS)) + "  gate"]
    for name, trial in trials.items():
        found, speed = trial.comparison, trial.speed
        cells = [
            name,
            f"{found.accuracy[1]:.4f}" if found.accuracy else "-",
            str(found.flips),
            f"{found.mean_change:.4f}",
            f"{found.batch_effect:.4f}",
            f"{trial.bundle.size / 1e6:.1f}",
            f"{speed.rate:.0f}" if speed else "-",
            f"{speed.p50_ms:.1f}" if speed else "-",
            f"{speed.rss / 1e6:.0f}" if speed and speed.rss else "-",
        ]
        verdict = "; ".join(trial.failures) or ("passed, chosen" if name == chosen else "passed")
        row = "".join(_cell(cell, width, i) for i, (cell, (_, width)) in enumerate(zip(cells, COLUMNS, strict=True)))
        lines.append(f"{row}  {verdict}")
    return "\n".join(lines)


def _cell(text: str, width: int, place: int) -> str:
    return f"{text:>{width}}" if place else f"{text:{width}}"


def report_json(
    chosen: Trial, trials: Mapping[str, Trial], evidence: Evidence, limits: Limits, trimming: Trimming | None = None
) -> str:
    """``report.json``: the gate, every recipe that was tried, the machine."""
    report = {
        "gate": {"limits": vars(limits), "data": evidence.data, "passed": True},
        "chosen": chosen.recipe,
        "texts": len(evidence.texts),
        "recipes": {name: trial.to_json() for name, trial in trials.items()},
        "machine": chosen.bundle.verified_on,
    }
    if trimming:
        report["trimming"] = trimming.to_json()
    return dumps(report, indent=1, ensure_ascii=False) + "\n"


def advice(trials: Mapping[str, Trial], recipe: str) -> str:
    """Each recipe's failures and what to try, in one line."""
    lines = "; ".join(f"{name}: {', '.join(trial.failures)}" for name, trial in trials.items())
    if recipe == "auto":
        remedy = "raise the limit if you can bear it, or give more held-out rows: --data"
    else:
        remedy = "try --recipe auto, int8-mixed or fp32, or raise the limit if you can bear it"
    return f"{lines}; {remedy}"
