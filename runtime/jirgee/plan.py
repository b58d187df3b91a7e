"""Lengths and a token budget -> batches.

Pure arithmetic on arrays: knows nothing of texts, tokenizers or ONNX. A batch costs ``rows x width`` tokens,
because every row is padded to the longest; sorting by length keeps the padding of many rows near zero, and few rows
are cut where their lengths fall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """``rows``: int64 indices into the planned lengths; ``width``: the longest of them, in tokens."""

    rows: np.ndarray
    width: int

    @property
    def tokens(self) -> int:
        """Tokens the model computes for this batch, padding included."""
        return len(self.rows) * self.width


def plan(lengths: np.ndarray, token_budget: int, run_cost: float = math.inf) -> list[Batch]:
    """Cut rows of the given ``lengths`` (int, [n], tokens) into batches of at most ``token_budget`` tokens.

    Every row is in exactly one batch. Rows are taken longest first, so that the last batches to run are the short
    ones and worker threads finish together. A row longer than the budget gets a batch of its own. ``run_cost``: what
    a batch more costs, in tokens; a batch ends early where that saves more padding.
    Raises ValueError for a length below 1 or a budget below 1.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, not {token_budget}")
    if lengths.size and lengths.min() < 1:
        raise ValueError("every length must be at least 1")
    order = np.argsort(-lengths, kind="stable")
    falling = lengths[order]
    batches = []
    start = 0
    while start < len(order):
        width = int(falling[start])
        end = _end(falling[start : start + max(1, token_budget // width)], run_cost)
        batches.append(Batch(order[start : start + end], width))
        start += end
    return batches


def _end(falling: np.ndarray, run_cost: float) -> int:
    """How many of the rows make a batch: those behind a cut are narrower by as much as the first of them is."""
    if falling[0] == falling[-1] or run_cost == math.inf:
        return len(falling)
    saved = (falling[0] - falling) * np.arange(len(falling), 0, -1)
    while saved.max() > run_cost:
        end = int(saved.argmax())
        saved = saved[:end] - (falling[0] - falling[:end]) * (len(saved) - end)
    return len(saved)


def padding_share(batches: list[Batch], lengths: np.ndarray) -> float:
    """Share of the planned tokens that is padding, 0..1."""
    planned = sum(batch.tokens for batch in batches)
    return 1.0 - float(np.sum(lengths)) / planned if planned else 0.0
