"""Temperature and mix by maximum likelihood, and that cross-fitting never looks at the row it judges."""

from __future__ import annotations

import numpy as np

from jirgee.metrics import expected_calibration_error
from jirgee.ngrams import NgramModel
from jirgee.scorer import softmax
from jirgee_train.calibrate import Mix, cross_fitted, fit_mix
from jirgee_train.ngrams import fit_ngrams


def overconfident(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits three times too large for the labels drawn from them."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(rows, 3)) * 1.5
    gold = np.array([rng.choice(3, p=p / p.sum()) for p in softmax(honest).astype(float)])
    return (3 * honest).astype(np.float32), gold


def test_the_temperature_that_made_the_logits_is_found():
    logits, gold = overconfident()
    assert abs(fit_mix(logits, None, gold).temperature - 3) < 0.25


def test_cross_fitted_probabilities_are_calibrated():
    logits, gold = overconfident()
    before = expected_calibration_error(softmax(logits), gold)
    after = expected_calibration_error(cross_fitted(logits, None, gold, seed=1), gold)
    assert before > 0.1
    assert after < before / 3


def test_useless_ngrams_get_no_weight_and_good_ones_do():
    logits, gold = overconfident()
    noise = np.random.default_rng(5).normal(size=logits.shape)
    good = np.eye(3)[gold] * 2.0
    assert fit_mix(logits, noise, gold).ngram_weight < 0.1
    mix = fit_mix(logits, good, gold)
    assert mix.ngram_weight > 0.5
    assert (mix.probs(logits, good).argmax(1) == gold).mean() > (logits.argmax(1) == gold).mean()


def test_cross_fitting_never_uses_the_row_it_judges():
    logits, gold = overconfident(200)
    judged = cross_fitted(logits, None, gold, seed=3)
    other = gold.copy()
    other[7] = (gold[7] + 1) % 3
    assert np.array_equal(judged[7], cross_fitted(logits, None, other, seed=3)[7])
    assert not np.array_equal(judged, cross_fitted(logits, None, other, seed=3))


def test_few_rows_do_not_freeze_the_temperature():
    logits = np.array([[4.0, 0.0], [0.0, 4.0]], np.float32)
    assert fit_mix(logits, None, np.array([0, 1])).temperature >= 0.5
    assert np.isfinite(cross_fitted(logits, None, np.array([0, 1]), seed=0)).all()


def test_mix_without_ngrams_is_a_temperature():
    logits = np.array([[2.0, -1.0]], np.float32)
    assert np.allclose(Mix(2.0).probs(logits), softmax(logits, 2.0))


def test_fitted_ngrams_learn_the_samples(samples):
    rows = [line.rsplit("\t", 1) for line in (samples / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    held = [line.rsplit("\t", 1) for line in (samples / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    classes = ["comedian", "commentator"]
    model = fit_ngrams([text for text, _ in rows], np.array([classes.index(name) for _, name in rows]), 2)
    predicted = model.logits([text for text, _ in held]).argmax(axis=1)
    assert np.mean([classes[i] == name for i, (_, name) in zip(predicted, held, strict=True)]) > 0.8
    again = NgramModel.from_bytes(model.to_bytes(), 2)
    assert (again.logits([text for text, _ in held]).argmax(axis=1) == predicted).all()


def test_three_classes_and_a_class_without_rows():
    texts = ["аааа бббб", "аааа ббб", "вввв гггг", "вввв ггг"] * 3
    gold = np.array([0, 0, 2, 2] * 3)
    logits = fit_ngrams(texts, gold, 3, bits=10).logits(texts)
    assert (logits.argmax(axis=1) == gold).all()
    assert (logits[:, 1] < -20).all()
