"""Fits the n-gram half of a hybrid: ``jirgee.ngrams`` features, scikit-learn's logistic regression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from jirgee.ngrams import NgramModel, count_ngrams

BITS = 16  # on 2,069 tweets as good as 20 bits (0.766), in half a megabyte
STRENGTH = 5.0  # C of the logistic regression


def fit_ngrams(texts: Sequence[str], gold: np.ndarray, classes: int, bits: int = BITS) -> NgramModel:
    """Fit on ``texts`` with class indices ``gold`` int [n]; classes weigh alike. A bucket needs two texts to count."""
    from scipy.sparse import csr_matrix
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    counts = count_ngrams(texts, bits)
    frequency = np.bincount(counts.bucket, minlength=1 << bits)
    idf = np.where(frequency >= 2, np.log((1 + len(texts)) / (1 + frequency)) + 1, 0).astype(np.float32)
    values = (1 + np.log(counts.count)) * idf[counts.bucket]
    used = values > 0
    matrix = csr_matrix((values[used], (counts.row[used], counts.bucket[used])), shape=(len(texts), 1 << bits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=STRENGTH, max_iter=1000, class_weight="balanced").fit(normalize(matrix), gold)
    weights = np.zeros((1 << bits, classes), dtype=np.float32)
    bias = np.full(classes, -30.0, dtype=np.float32)  # a class without rows is never said
    if len(model.classes_) == 2:  # scikit-learn keeps one column for two classes: the log odds of the second
        weights[:, model.classes_[1]], bias[model.classes_] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weights[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    return NgramModel(idf, weights, bias)
