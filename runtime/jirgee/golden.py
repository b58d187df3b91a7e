"""Golden texts: a few texts in the bundle with the scores that they had when it was verified.

Scored one by one, so that no batch-mate has a say; whoever scores them again, on another machine or in another
language, can tell whether his scores are those of the export.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bundle import GOLDEN, Bundle
from .errors import BundleError
from .scorer import Scorer

COUNT = 32
RANDOM, HELD_OUT = "random pieces", "held-out texts"  # where they are from


@dataclass(frozen=True)
class Golden:
    """``source``: where the texts are from. ``texts``: n texts. ``probs``: float32 [n, k], each text scored alone."""

    source: str
    texts: tuple[str, ...]
    probs: np.ndarray

    def to_bytes(self) -> bytes:
        data = {"source": self.source, "texts": self.texts, "probs": self.probs.astype(np.float64).tolist()}
        return (json.dumps(data, ensure_ascii=True, indent=1) + "\n").encode()

    @classmethod
    def read(cls, bundle: Bundle) -> Golden | None:
        """The bundle's; None if it has none. Raises BundleError if they are not what docs/bundle-format.md says."""
        if GOLDEN not in bundle.files:
            return None
        try:
            data = json.loads(bundle.read(GOLDEN))
            source, texts = data["source"], tuple(data["texts"])
            probs = np.array(data["probs"], dtype=np.float32)
            sound = (
                isinstance(source, str)
                and len(texts) > 0
                and all(isinstance(text, str) for text in texts)
                and probs.shape == (len(texts), len(bundle.labels))
                and bool(np.isfinite(probs).all())
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            sound = False
        if not sound:
            raise BundleError(f"{bundle.path}: {GOLDEN} is not texts with their scores; export it again")
        return cls(source, texts, probs)


def score_alone(bundle: Bundle, texts: Sequence[str], device: str = "cpu") -> np.ndarray:
    """float32 [n, k]: each text in a batch of its own."""
    with Scorer.load(bundle, device, token_budget=1) as scorer:
        return scorer.score(texts).probs


def record(bundle: Bundle, texts: Sequence[str], source: str) -> Golden:
    """Score up to COUNT different ones of ``texts``, spread over all of them."""
    unique = list(dict.fromkeys(texts))
    chosen = unique[:: max(1, len(unique) // COUNT)][:COUNT]
    return Golden(source, tuple(chosen), score_alone(bundle, chosen))
