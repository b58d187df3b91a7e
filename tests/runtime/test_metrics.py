"""The figures of ``jirgee eval`` against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from jirgee.metrics import confusion, evaluate, expected_calibration_error

sklearn = pytest.importorskip("sklearn.metrics")


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 7)), int(rng.integers(1, 300))
    probs = rng.dirichlet(np.full(k, 0.5), size=n).astype(np.float32)
    return probs, rng.integers(0, k, size=n), [f"class {i}" for i in range(k)]


@pytest.mark.parametrize("seed", range(30))
def test_figures_equal_scikit_learns(seed: int) -> None:
    probs, gold, classes = random_case(seed)
    figures = evaluate(probs, gold, classes)
    predicted, every = probs.argmax(axis=1), list(range(len(classes)))

    assert figures["n"] == len(gold)
    assert figures["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, predicted))
    assert figures["macro_f1"] == pytest.approx(
        sklearn.f1_score(gold, predicted, labels=every, average="macro", zero_division=0)
    )
    assert figures["confusion"] == sklearn.confusion_matrix(gold, predicted, labels=every).tolist()
    clipped = np.maximum(probs.astype(float), 1e-12)
    assert figures["loss"] == pytest.approx(-np.log(clipped[np.arange(len(gold)), gold]).mean(), rel=1e-5)

    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        gold, predicted, labels=every, zero_division=0
    )
    for i, name in enumerate(classes):
        assert figures["per_class"][name] == pytest.approx(
            {"precision": precision[i], "recall": recall[i], "f1": f1[i], "support": support[i]}
        )


def test_a_class_that_never_occurs_counts_as_zero() -> None:
    probs = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    figures = evaluate(probs, np.array([0, 1]), ["a", "b", "c"])
    assert figures["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert figures["macro_f1"] == pytest.approx(2 / 3)


def test_confusion_has_the_truth_in_rows() -> None:
    assert confusion(np.array([0, 0, 1]), np.array([1, 1, 1]), 2).tolist() == [[0, 2], [0, 1]]


def test_calibration_error_by_hand() -> None:
    # Two bins of ten: 0.62 (two rows, one right) and 0.95 (two rows, both right).
    probs = np.array([[0.62, 0.38], [0.38, 0.62], [0.95, 0.05], [0.05, 0.95]])
    gold = np.array([0, 0, 0, 1])
    expected = 0.5 * abs(0.62 - 0.5) + 0.5 * abs(0.95 - 1.0)
    assert expected_calibration_error(probs, gold, bins=10) == pytest.approx(expected)


def test_calibration_error_of_certain_rows() -> None:
    probs = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(probs, np.array([0, 1])) == 0.0
    assert expected_calibration_error(probs, np.array([1, 0])) == 1.0


def test_a_calibrated_model_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(40_000)
    probs = np.stack([first, 1 - first], axis=1)
    gold = (rng.random(40_000) > first).astype(int)
    assert expected_calibration_error(probs, gold) < 0.01
    assert expected_calibration_error(probs, 1 - gold) > 0.3
