"""Of many unlabelled texts those most like the labelled ones: when time is short, they teach the most.

A character n-gram classifier learns to tell the labelled texts from a sample of the others, and ranks the others by it
(data selection as in Moore and Lewis 2010, with a classifier in the place of two language models).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .ngrams import fit_ngrams

BITS = 16
CHUNK = 10_000  # texts whose n-grams are counted at once, so that memory stays small


def nearest(texts: list[str], like: Sequence[str], most: int, seed: int) -> list[str]:
    """The ``most`` of ``texts`` that look most like ``like``, in their old order; all, if there are not more."""
    if len(texts) <= most:
        return list(texts)
    rng = np.random.default_rng(seed)
    sample = [texts[row] for row in rng.choice(len(texts), min(len(texts), 2 * len(like) + 100), replace=False)]
    gold = np.repeat([1, 0], [len(like), len(sample)])
    model = fit_ngrams([*like, *sample], gold, 2, BITS)
    scores = np.concatenate([model.logits(texts[start : start + CHUNK])[:, 1] for start in range(0, len(texts), CHUNK)])
    return [texts[row] for row in np.sort(np.argsort(-scores, kind="stable")[:most])]
