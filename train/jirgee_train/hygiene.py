"""What is wrong with a labelled set before anything is trained: repeats, rows of train that give dev away, label
conflicts, lengths. Found by ``repeats.py``; counted, told, and where it would flatter the result, mended here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jirgee.errors import InputError
from jirgee.labelled import Labelled
from jirgee.tokens import Encoded

from .repeats import Groups


@dataclass(frozen=True)
class Hygiene:
    """``train_repeats``, ``dev_repeats``: rows whose text (nearly) repeats an earlier row of the same set.
    ``conflicts``: rows whose text is also there under another label. ``leaked``: rows of train that (nearly) repeat a
    dev row or share its group; ``exposed``: the dev rows that they give away; ``dropped``: of the leaked, rows taken
    out of train. ``groups``: names in the ``group`` column.
    """

    train_repeats: int = 0
    dev_repeats: int = 0
    conflicts: int = 0
    leaked: int = 0
    exposed: int = 0
    dropped: int = 0
    groups: int = 0

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def separate(train: Labelled, dev: Labelled, groups: Groups, keep: bool) -> tuple[Labelled, Hygiene]:
    """Train without the rows that repeat a dev row, unless ``keep``; and the figures of both sets as they were given.

    ``groups``: of the rows of ``train`` followed by those of ``dev``. Raises InputError if a label would lose its last
    row in train.
    """
    cut = len(train)
    in_train, in_dev = groups.units[:cut], groups.units[cut:]
    leaked = np.isin(in_train, in_dev)
    kept = train if keep else train.take(np.flatnonzero(~leaked).tolist())
    if missing := sorted(set(train.labels) - set(kept.labels)):
        raise InputError(
            f"every row with the label {missing[0]!r} repeats a dev row; mend the split, or pass --keep-repeats",
            train.where[0][0],
        )
    hygiene = Hygiene(
        train_repeats=_repeats(groups.texts[:cut]),
        dev_repeats=_repeats(groups.texts[cut:]),
        conflicts=_conflicts(groups.texts, [*train.labels, *dev.labels]),
        leaked=int(leaked.sum()),
        exposed=int(np.isin(in_dev, in_train).sum()),
        dropped=len(train) - len(kept),
        groups=len({*train.groups, *dev.groups} - {""}),
    )
    return kept, hygiene


def _repeats(texts: np.ndarray) -> int:
    return len(texts) - len(np.unique(texts))


def _conflicts(texts: np.ndarray, labels: list[str]) -> int:
    seen: dict[int, set[str]] = {}
    for text, label in zip(texts.tolist(), labels, strict=True):
        seen.setdefault(text, set()).add(label)
    return sum(len(seen[text]) > 1 for text in texts.tolist())


def lengths(encoded: Encoded) -> dict[str, float]:
    """Tokens of the texts as the model sees them: ``p50``, ``p95``, ``longest``, and the share that was cut."""
    p50, p95, longest = np.percentile(encoded.lengths, [50, 95, 100])
    return {"p50": float(p50), "p95": float(p95), "longest": float(longest), "cut": float(encoded.truncated.mean())}


def describe(hygiene: Hygiene, tokens: dict[str, Any], max_tokens: int) -> str:
    """The report before training, a line a finding. ``tokens``: ``lengths`` of the train rows."""
    lines = []
    if hygiene.groups:
        lines.append(f"groups: {hygiene.groups} names, each on one side only")
    repeats = hygiene.train_repeats + hygiene.dev_repeats
    if repeats or hygiene.conflicts:
        lines.append(
            f"repeats: {repeats} rows (nearly) repeat another of their set; {hygiene.conflicts} rows have a text that "
            "is there under another label too"
        )
    if hygiene.leaked:
        done = (
            "dropped from train (--keep-repeats keeps them)"
            if hygiene.dropped
            else "kept, which flatters every figure below"
        )
        lines.append(
            f"leakage: {hygiene.leaked} train rows (nearly) repeat {hygiene.exposed} dev rows or share their group; "
            + done
        )
    lines.append(
        f"tokens: p50 {tokens['p50']:.0f}, p95 {tokens['p95']:.0f}; {tokens['cut']:.1%} of the train rows are cut at "
        f"{max_tokens}"
    )
    return "\n".join(lines)
