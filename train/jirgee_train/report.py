"""What a training run says of itself: ``eval_results.json``, ``eval_results.txt`` in mn-tweet-bert's form, and the
baseline that an encoder has to beat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.machine import describe
from jirgee.metrics import evaluate
from jirgee.scorer import softmax

from .calibrate import Mix, cross_fitted
from .data import Dataset
from .fit import Fitted


def tfidf_baseline(data: Dataset) -> dict[str, Any]:
    """The figures of ``tfidf_probs``."""
    return evaluate(tfidf_probs(data), data.dev.indices(data.classes), data.classes)


def tfidf_probs(data: Dataset) -> np.ndarray:
    """float [n_dev, k] of TF-IDF of character 2- to 5-grams with logistic regression (C = 5), fitted on train."""
    classifier = tfidf_classifier().fit(data.train.texts, data.train.labels)
    order = [list(classifier.classes_).index(name) for name in data.classes]
    return classifier.predict_proba(data.dev.texts)[:, order]


def tfidf_classifier():
    """The unfitted scikit-learn pipeline: what a careful person would try first."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
    return make_pipeline(vectors, LogisticRegression(C=5, max_iter=2000))


@dataclass(frozen=True)
class Judged:
    """Probabilities float [n_dev, k] of one run: ``final`` is calibrated and cross-fitted, ``encoder`` is neither;
    ``ngrams``: of a hybrid's n-gram half; ``tfidf``: of the baseline on the same split.
    """

    final: np.ndarray
    encoder: np.ndarray
    ngrams: np.ndarray | None
    tfidf: np.ndarray


def judge(logits: np.ndarray, ngram_logits: np.ndarray | None, data: Dataset, seed: int) -> Judged:
    """What a run's logits [n_dev, k] come to, and the baseline. ``seed``: of the folds of cross-fitting."""
    final = cross_fitted(logits, ngram_logits, data.dev.indices(data.classes), seed)
    ngrams = None if ngram_logits is None else softmax(ngram_logits)
    return Judged(final, softmax(logits), ngrams, tfidf_probs(data))


def eval_results(fitted: Fitted, judged: Judged, mix: Mix, data: Dataset) -> dict[str, Any]:
    """All figures of ``eval_results.json``. Those at the top level are of calibrated, cross-fitted probabilities."""
    gold = data.dev.indices(data.classes)
    figures = evaluate(judged.final, gold, data.classes)
    encoder = evaluate(judged.encoder, gold, data.classes)
    parts = {
        "encoder": encoder,
        "baseline_tfidf": evaluate(judged.tfidf, gold, data.classes),
    }
    if judged.ngrams is not None:
        parts |= {"ngrams": evaluate(judged.ngrams, gold, data.classes), "hybrid": figures}
    return {
        **figures,
        "eval_loss": encoder["loss"],
        "eval_loss_calibrated": figures["loss"],
        "global_step": fitted.global_step,
        "loss": fitted.train_loss,
        **original_metrics(figures, data.classes),
        "ece_uncalibrated": encoder["ece"],
        "temperature": mix.temperature,
        "ngram_weight": mix.ngram_weight,
        **{name: {key: part[key] for key in ("accuracy", "macro_f1", "ece")} for name, part in parts.items()},
        "train_rows": len(data.train),
        "dev_rows": len(data.dev),
        "seconds": round(fitted.seconds, 1),
        "machine": describe(),
        "history": fitted.history,
    }


def original_metrics(figures: dict[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """``acc``, ``f1`` (of the second class) and ``acc_and_f1``, as mn-tweet-bert had them; nothing for more classes."""
    if len(classes) != 2:
        return {}
    acc, f1 = figures["accuracy"], figures["per_class"][classes[1]]["f1"]
    return {"acc": acc, "f1": f1, "acc_and_f1": (acc + f1) / 2}


def write_results(results: dict[str, Any], out: Path) -> None:
    (out / "eval_results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = ("acc", "acc_and_f1", "eval_loss", "f1", "global_step", "loss")
    lines = [f"{name} = {results[name]}" for name in shown if name in results]
    (out / "eval_results.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
