"""A scored file -> the figures of its report. Read once, in constant memory: kept are counts and the few rows shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError
from .labelled import checked_text
from .rows import Row, read_items

SHOWN = 20  # surest rows, and as many of the least sure
BINS = 20  # of confidence, 0.05 wide
MOST_PERIODS = 4096  # kept; with more, neighbours are counted together
TWITTER_DATE = "%a %b %d %H:%M:%S %z %Y"


class Shown(NamedTuple):
    """A row of the report. ``label``: empty where the model abstained."""

    score: float
    text: str
    label: str


@dataclass
class Figures:
    """``labels``: label -> rows, an empty label where the model abstained. ``confidence``: rows by score, in ``BINS``
    bins from 0 to 1. ``periods``: day (``date.toordinal``) // ``days`` -> label -> rows, of those that have a date.
    """

    classes: Sequence[str]
    rows: int = 0
    dated: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    days: int = 1
    periods: dict[int, Counter[str]] = field(default_factory=dict)
    surest: list[Shown] = field(default_factory=list)
    least_sure: list[Shown] = field(default_factory=list)

    def widen(self, times: int) -> None:
        """Count ``times`` neighbouring periods together."""
        merged: dict[int, Counter[str]] = {}
        for period, labels in self.periods.items():
            merged.setdefault(period // times, Counter()).update(labels)
        self.days, self.periods = self.days * times, merged


def collect(path: Path, classes: Sequence[str], text_column: str = "text") -> Figures:
    """Read the output of a run. Raises InputError if it is none with these ``classes``.

    Of rows with the same text, the first stands for all among those shown.
    """
    figures, prefix = Figures(classes), None
    surest: dict[str, tuple[float, Shown]] = {}
    least: dict[str, tuple[float, Shown]] = {}
    for item in read_items(path):
        if not isinstance(item, Row):
            continue  # its added columns made it longer than a record may be
        record = item.record
        if prefix is None:
            prefix = _prefix(record, classes, path)
        score = float(record[f"{prefix}score"])
        row = Shown(score, checked_text(record, text_column, path, item.line), record[f"{prefix}label"] or "")
        figures.rows += 1
        figures.labels[row.label] += 1
        figures.confidence[min(int(score * BINS + 1e-9), BINS - 1)] += 1
        if (day := _day(record, text_column)) is not None:
            figures.dated += 1
            figures.periods.setdefault(day // figures.days, Counter())[row.label] += 1
            if len(figures.periods) > MOST_PERIODS:
                figures.widen(4)
        _keep(surest, score, row)
        _keep(least, -score, row)
    figures.surest, figures.least_sure = (
        [row for _, row in sorted(kept.values(), reverse=True)] for kept in (surest, least)
    )
    return figures


def _keep(kept: dict[str, tuple[float, Shown]], rank: float, row: Shown) -> None:
    if row.text in kept:
        return
    if len(kept) >= SHOWN:
        lowest = min(kept.values())
        if rank <= lowest[0]:
            return
        del kept[lowest[1].text]
    kept[row.text] = rank, row


def _prefix(record: dict[str, Any], classes: Sequence[str], path: Path) -> str:
    """What the added columns begin with: the longest that fits, for the input's own begin with less."""
    names = ["label", "score", *(f"p_{name}" for name in classes)]
    for times in range(8, -1, -1):
        if all("predicted_" * times + name in record for name in names):
            return "predicted_" * times
    raise InputError("lacks the columns that jirgee score adds with this bundle; score its input again", path)


def _day(record: dict[str, Any], text_column: str) -> int | None:
    """The day of ``created_at``, at the top or beside the text."""
    beside: Any = record
    for name in text_column.split(".")[:-1]:
        beside = beside.get(name) if isinstance(beside, dict) else None
    for place in (record, beside, record.get("tweet"), record.get("data")):
        value = place.get("created_at") if isinstance(place, dict) else None
        if isinstance(value, date):
            return value.toordinal()
        if isinstance(value, str):
            for form in ("%Y-%m-%d", TWITTER_DATE):
                try:
                    return datetime.strptime(value[:10] if form != TWITTER_DATE else value, form).toordinal()
                except ValueError:
                    continue
    return None
