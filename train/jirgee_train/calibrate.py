"""Turns logits into honest probabilities: one temperature, and for a hybrid the weight of the n-grams.

Both come from held-out rows by maximum likelihood: temperature scaling (Guo et al. 2017, arXiv:1706.04599), which for a
hybrid is the log-linear mix ``logits / temperature + weight * ngram_logits``. What is said about the held-out rows
themselves is cross-fitted: no row is judged with a temperature or a weight that it helped to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jirgee.scorer import softmax

FOLDS = 5
COLDEST, HOTTEST = 0.5, 20.0  # a temperature below would only say that the held-out rows are few


@dataclass(frozen=True)
class Mix:
    """``probs = softmax(logits / temperature + ngram_weight * ngram_logits)``."""

    temperature: float = 1.0
    ngram_weight: float = 0.0

    def probs(self, logits: np.ndarray, ngram_logits: np.ndarray | None = None) -> np.ndarray:
        """float32 [n, k]."""
        return softmax(mixed(logits, ngram_logits, self.temperature, self.ngram_weight))


def mixed(logits: np.ndarray, ngram_logits: np.ndarray | None, temperature: float, ngram_weight: float) -> np.ndarray:
    """Logits [n, k] of the log-linear mix."""
    scaled = np.asarray(logits, np.float64) / temperature
    return scaled if ngram_logits is None else scaled + ngram_weight * ngram_logits


def fit_mix(logits: np.ndarray, ngram_logits: np.ndarray | None, gold: np.ndarray) -> Mix:
    """The most likely temperature (and n-gram weight) for the held-out ``gold`` int [n]."""
    from scipy.optimize import minimize

    rows = np.arange(len(gold))

    def loss(parameters: np.ndarray) -> float:
        scaled = mixed(logits, ngram_logits, 1 / parameters[0], parameters[-1])
        top = scaled.max(axis=1)
        return float((top + np.log(np.exp(scaled - top[:, None]).sum(axis=1)) - scaled[rows, gold]).mean())

    start, bounds = [1.0], [(1 / HOTTEST, 1 / COLDEST)]
    if ngram_logits is not None:
        start, bounds = [0.5, 0.5], [*bounds, (0.0, 20.0)]
    found = minimize(loss, np.array(start), bounds=bounds, method="L-BFGS-B").x
    return Mix(float(1 / found[0]), 0.0 if ngram_logits is None else float(found[1]))


def cross_fitted(logits: np.ndarray, ngram_logits: np.ndarray | None, gold: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities float32 [n, k] of the held-out rows, each with the mix that the other folds choose."""
    fold = np.random.default_rng(seed).permutation(len(gold)) % FOLDS
    probs = np.zeros_like(logits, dtype=np.float32)
    for part in range(FOLDS):
        inside, outside = fold == part, fold != part
        if not inside.any() or not outside.any():
            continue
        pick = lambda rows: None if ngram_logits is None else ngram_logits[rows]  # noqa: E731
        mix = fit_mix(logits[outside], pick(outside), gold[outside])
        probs[inside] = mix.probs(logits[inside], pick(inside))
    return probs
