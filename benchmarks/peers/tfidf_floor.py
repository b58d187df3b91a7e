"""TF-IDF of character n-grams with logistic regression: the floor of quality, and of speed among careful baselines.

Fitted on the calibration texts, so its labels are a rough guess at the model's. Kept by pickle inside the benchmark's
own folder, where nobody else writes; nothing that jirgee reads is a pickle.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.checkpoint import read_labels

from ..cases import Case
from . import Variant

ABOUT = "scikit-learn: TF-IDF of character 2- to 5-grams, logistic regression"
SOURCES = ("https://scikit-learn.org/stable/modules/feature_extraction.html#text-feature-extraction",)
NEEDS = ("sklearn",)
VARIANTS = {"lr": Variant("char_wb 2- to 5-grams, C = 5", "other")}
THROUGHPUT = [{}]
LATENCY = [{}]
COMPARABLE = False


def prepare(case: Case, out: Path, variant: str) -> None:
    from jirgee.labelled import read_labelled
    from jirgee_train.report import tfidf_classifier

    rows = read_labelled(case.calibration)
    (out / "model.pkl").write_bytes(pickle.dumps(tfidf_classifier().fit(rows.texts, rows.labels)))


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    model = pickle.loads((out / "model.pkl").read_bytes())
    labels = read_labels(case.checkpoint) or []
    return model, [labels.index(name) for name in model.classes_], len(labels)


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    model, columns, width = loaded
    probs = np.zeros((len(texts), width), np.float32)
    probs[:, columns] = model.predict_proba(texts)
    return probs


def close(loaded: Any) -> None:
    pass
