"""What a training run says of itself: ``eval_results.json``, ``eval_results.txt`` in mn-tweet-bert's form, and the
baseline that an encoder has to beat."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def eval_results(
    fitted: Fitted,
    ngram_logits: np.ndarray | None,
    mix: Mix,
    data: Dataset,
    seed: int,
    tfidf: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures of ``eval_results.json``. Those at the top level are of calibrated, cross-fitted probabilities.

    ``tfidf``: what ``tfidf_probs`` gives, where it is known already.
    """
    gold = data.dev.indices(data.classes)
    figures = evaluate(cross_fitted(fitted.dev_logits, ngram_logits, gold, seed), gold, data.classes)
    encoder = evaluate(softmax(fitted.dev_logits), gold, data.classes)
    parts = {
        "encoder": encoder,
        "baseline_tfidf": evaluate(tfidf_probs(data) if tfidf is None else tfidf, gold, data.classes),
    }
    if ngram_logits is not None:
        parts |= {"ngrams": evaluate(softmax(ngram_logits), gold, data.classes), "hybrid": figures}
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
