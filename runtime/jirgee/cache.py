"""Scores of the texts seen lately, in constant memory, and as a log from which a resumed run has them again.

The score of a text depends a little on the texts computed beside it (8-bit weights, see ``Bundle.tolerance``). A run
that goes on after a kill gives the same bytes only if it remembers what the run before it remembered. So what is
remembered is exactly the last entries of an append-only log: first in, first out, whatever was asked for in between.
A ``Scorer`` that is told to remember keeps one too, for all of its callers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock

import numpy as np

from .scores import Scores

CACHED_TEXTS = 1 << 17  # about 15 MB, full


@dataclass(frozen=True)
class Remembered:
    """``scores`` of all texts asked for; ``fresh``: the new entries of the log; ``computed``: how many they are."""

    scores: Scores
    fresh: bytes
    computed: int


class ScoreCache:
    """Safe to share between threads; only one caller at a time gets a log (``fresh``) that is in order."""

    def __init__(self, classes: Sequence[str], size: int = CACHED_TEXTS):
        self._classes, self._size = list(classes), size
        self.entry = np.dtype(
            [("key", "V16"), ("probs", "<f4", (len(classes),)), ("truncated", "?"), ("unknown", "<f4")]
        )
        self._ring = np.zeros(size, self.entry)
        self._slots: dict[bytes, int] = {}
        self._next = 0
        self._lock = Lock()

    @property
    def tail(self) -> int:
        """How many bytes at the end of the log ``restore`` needs at most."""
        return self._size * self.entry.itemsize

    def restore(self, log: bytes) -> None:
        """Remember again what a log holds, of which at least the last ``tail`` bytes are given."""
        self._remember(np.frombuffer(log, self.entry))

    def _remember(self, entries: np.ndarray) -> None:
        for entry in entries[-self._size :]:
            key, slot = entry["key"].tobytes(), self._next % self._size
            if self._next >= self._size:
                oldest = self._ring["key"][slot].tobytes()
                if self._slots.get(oldest) == slot:  # unless the same text came again since
                    del self._slots[oldest]
            self._ring[slot] = entry
            self._slots[key] = slot
            self._next += 1

    def score(self, compute: Callable[[Sequence[str]], Scores], texts: Sequence[str]) -> Remembered:
        """Scores in order; each different text that is not remembered is computed once, by ``compute``."""
        places: dict[bytes, int] = {}
        unique: list[str] = []
        row = np.empty(len(texts), np.int64)
        for index, text in enumerate(texts):
            key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if (place := places.get(key)) is None:
                place = places[key] = len(unique)
                unique.append(text)
            row[index] = place
        table = np.zeros(len(unique), self.entry)
        with self._lock:
            slots = np.fromiter((self._slots.get(key, -1) for key in places), np.int64, len(unique))
            table[slots >= 0] = self._ring[slots[slots >= 0]]
        todo = np.flatnonzero(slots < 0)
        scores = compute([unique[place] for place in todo])
        fresh = np.zeros(len(todo), self.entry)
        if len(todo):
            keys = list(places)
            fresh["key"] = np.frombuffer(b"".join(keys[place] for place in todo), "V16")
            fresh["probs"], fresh["truncated"], fresh["unknown"] = scores.probs, scores.truncated, scores.unknown
            table[todo] = fresh
            with self._lock:
                self._remember(fresh)
        rows = table[row]
        all_scores = Scores(
            rows["probs"],
            self._classes,
            rows["truncated"],
            rows["unknown"],
            scores.tokens,
            scores.planned,
            scores.deferred,
        )
        return Remembered(all_scores, fresh.tobytes(), len(todo))
