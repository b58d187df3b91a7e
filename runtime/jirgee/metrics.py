"""How good scores are against known labels: accuracy, macro F1, per-class figures, calibration error.

numpy only, because ``jirgee eval`` is part of the lean runtime; the tests hold these against scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion(gold: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """int64 [k, k]: rows are the true classes, columns the predicted ones."""
    matrix = np.zeros((k, k), dtype=np.int64)
    np.add.at(matrix, (gold, predicted), 1)
    return matrix


def expected_calibration_error(probs: np.ndarray, gold: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width confidence bins (Guo et al. 2017, arXiv:1706.04599).

    ``probs`` [n, k], ``gold`` int [n].
    """
    confidence, hit = probs.max(axis=1), probs.argmax(axis=1) == gold
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[index == b].mean() - hit[index == b].mean()) * (index == b).mean() for b in set(index.tolist())
    ]
    return float(sum(gaps))


def evaluate(probs: np.ndarray, gold: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """All figures of ``jirgee eval``. ``probs`` float [n, k], ``gold`` int [n], n at least 1.

    A class without true and predicted rows has F1 0, as in scikit-learn.
    """
    matrix = confusion(gold, probs.argmax(axis=1), len(classes))
    hits, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return {
        "n": len(gold),
        "accuracy": float(hits.sum() / len(gold)),
        "macro_f1": float(f1.mean()),
        "ece": expected_calibration_error(probs, gold),
        "loss": float(-np.log(np.maximum(probs[np.arange(len(gold)), gold], 1e-12)).mean()),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": matrix.tolist(),
    }


def figures_table(figures: dict[str, Any]) -> str:
    """The figures of ``evaluate`` for people: one line for all rows, one for each class."""
    width = max(5, *(len(name) for name in figures["per_class"]))
    lines = [
        f"{figures['n']} rows: accuracy {figures['accuracy']:.4f}, macro F1 {figures['macro_f1']:.4f}, "
        f"expected calibration error {figures['ece']:.4f}",
        f"{'label':{width}}  precision  recall      F1  rows",
    ]
    for name, row in figures["per_class"].items():
        f1, support = row["f1"], row["support"]
        lines.append(f"{name:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {f1:6.4f}  {support:4d}")
    return "\n".join(lines)
