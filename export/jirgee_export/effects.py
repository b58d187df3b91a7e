"""Whether a text's score depends on what it was scored with: batch-mates, padding, threads.

The same texts are scored in several ways that should make no difference; each way is held against the ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jirgee.scorer import Scorer

TEXTS = 32  # each is scored once a way
GROUP = 6  # texts of a batch of random mates
ONE_BATCH = 1 << 30  # a token budget that puts every text of a call into one batch


@dataclass(frozen=True)
class Effect:
    """``change``: largest change of a probability. ``flips``: labels that became others."""

    change: float
    flips: int


def effects(scorer: Scorer, texts: Sequence[str], seed: int = 0) -> dict[str, Effect]:
    """Effect of each way, over at most TEXTS of the distinct ``texts``. Opens the bundle once more, for the threads."""
    distinct = list(dict.fromkeys(texts))
    rng = np.random.default_rng(seed)
    sample = [distinct[i] for i in sorted(rng.permutation(len(distinct))[:TEXTS])]
    ordinary = scorer.score(sample).probs
    found = {name: way(scorer, sample, rng) for name, way in WAYS.items()}
    with Scorer.load(scorer.bundle, scorer.device, threads=1 if scorer.threads > 1 else 2) as other:
        found["threads"] = other.score(sample).probs
    return {
        name: Effect(
            float(np.abs(probs - ordinary).max()), int((probs.argmax(axis=1) != ordinary.argmax(axis=1)).sum())
        )
        for name, probs in found.items()
    }


def _alone(scorer: Scorer, texts: list[str], rng: np.random.Generator) -> np.ndarray:
    return _with_budget(scorer, 1, lambda: scorer.score(texts).probs)


def _mates(scorer: Scorer, texts: list[str], rng: np.random.Generator) -> np.ndarray:
    """In batches of random mates, short and long together, in a random order."""
    order = rng.permutation(len(texts))
    probs = np.zeros((len(texts), len(scorer.bundle.labels)), np.float32)
    for start in range(0, len(order), GROUP):
        rows = order[start : start + GROUP]
        probs[rows] = _with_budget(scorer, ONE_BATCH, lambda rows=rows: scorer.score([texts[i] for i in rows]).probs)
    return probs


def _wide(scorer: Scorer, texts: list[str], rng: np.random.Generator) -> np.ndarray:
    """All in one batch, as wide as the longest."""
    return _with_budget(scorer, ONE_BATCH, lambda: scorer.score(texts).probs)


def _with_budget(scorer: Scorer, budget: int, score: Callable[[], np.ndarray]) -> np.ndarray:
    before, scorer.token_budget = scorer.token_budget, budget
    try:
        return score()
    finally:
        scorer.token_budget = before


WAYS: dict[str, Callable[[Scorer, list[str], np.random.Generator], np.ndarray]] = {
    "alone": _alone,
    "mates": _mates,
    "wide": _wide,
}
