"""The columns that scoring adds to a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import InputError
from .scores import Scores

_LINK = re.compile(r"(?:https?://|www\.|\bt\.co/|\bpic\.twitter\.com/)\S*", re.IGNORECASE)


@dataclass(frozen=True)
class Extras:
    """What is added on request. ``flags``: the columns ``truncated``, ``unknown_share`` and ``note``.
    ``abstain_below``: a label whose probability is lower is left empty (``null``).
    """

    flags: bool = False
    abstain_below: float = 0.0


NO_EXTRAS = Extras()


def note(text: str) -> str:
    """``empty`` or ``link-only`` for a text that says nothing, else an empty string."""
    words = text.strip()
    if not words:
        return "empty"
    return "" if _LINK.sub(" ", words).strip() else "link-only"


@dataclass(frozen=True)
class Columns:
    """The names of the added columns: ``label``, ``score``, ``p_CLASS``, in JSON lines and Parquet ``probs``, and the
    flags where they are asked for.

    Where the input has a column of such a name, which must come through unchanged, all added ones get the prefix
    ``predicted_``, as often as it takes.
    """

    prefix: str
    classes: tuple[str, ...]
    nested: bool
    extras: Extras = NO_EXTRAS

    @classmethod
    def beside(
        cls, record: dict[str, Any], classes: Sequence[str], nested: bool, extras: Extras = NO_EXTRAS
    ) -> Columns:
        prefix = ""
        plain = ["label", "score", *(f"p_{name}" for name in classes), "probs", "truncated", "unknown_share", "note"]
        if not extras.flags:
            plain = plain[:-3]
        while any(prefix + name in record for name in plain):
            prefix += "predicted_"
        return cls(prefix, tuple(classes), nested, extras)

    @property
    def names(self) -> list[str]:
        plain = ["label", "score", *(f"p_{name}" for name in self.classes)]
        plain += ["probs"] if self.nested else []
        plain += ["truncated", "unknown_share", "note"] if self.extras.flags else []
        return [self.prefix + name for name in plain]

    @cached_property
    def _taken(self) -> frozenset[str]:
        return frozenset(self.names)

    def check(self, record: dict[str, Any], path: Path, line: int) -> None:
        """Raise InputError if ``record``, unlike the first, has a column that an added one would replace."""
        if not self._taken.isdisjoint(record):
            raise InputError(
                f'has a column "{min(self._taken & record.keys())}", which the first row had not and which the added '
                "one would replace; score such rows apart",
                path,
                line,
            )

    def cells(self, scores: Scores, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The added cells of each row, probabilities rounded to 6 decimals."""
        names, abstain_below = self.names, self.extras.abstain_below
        labels, rows = scores.labels, scores.probs.astype(float).round(6).tolist()
        for index, (label, values) in enumerate(zip(labels, rows, strict=True)):
            best = max(values)
            cells: list[Any] = [label if best >= abstain_below else None, best, *values]
            if self.nested:
                cells.append(dict(zip(scores.classes, values, strict=True)))
            if self.extras.flags:
                cells += [bool(scores.truncated[index]), round(float(scores.unknown[index]), 4), note(texts[index])]
            yield dict(zip(names, cells, strict=True))
