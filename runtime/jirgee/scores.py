"""What scoring gives: ``Scores``, and the step from logits to probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import BundleError


@dataclass(frozen=True)
class Scores:
    """``probs``: float32 [n, k], rows sum to 1. ``classes``: k names. ``truncated``: bool [n], texts cut short.

    ``unknown``: float32 [n], share of a text's pieces that the tokenizer does not know. ``tokens``: what the model was
    given for these scores, ``planned``: with padding; both 0 where every score was remembered. ``deferred``: how many
    of the computed texts a cascade's small model left to the large one.
    """

    probs: np.ndarray
    classes: list[str]
    truncated: np.ndarray
    unknown: np.ndarray
    tokens: int = 0
    planned: int = 0
    deferred: int = 0

    @property
    def labels(self) -> list[str]:
        """The most probable class of each text."""
        return [self.classes[index] for index in self.probs.argmax(axis=1)] if len(self.probs) else []

    @property
    def confidence(self) -> np.ndarray:
        """float32 [n]: the probability of ``labels``."""
        return self.probs.max(axis=1) if len(self.probs) else np.zeros(0, np.float32)

    def __len__(self) -> int:
        return len(self.probs)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """``logits`` [n, k] -> probabilities float32 [n, k]. Raises BundleError for a NaN or an infinity."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if not np.isfinite(scaled).all():
        raise BundleError("the model gave a logit that is not a finite number; export it again with another recipe")
    exp = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)
