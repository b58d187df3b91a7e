"""The hashed n-gram model: features against a plain count, the file, and the mix in a scorer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from jirgee import BundleError
from jirgee.ngrams import NgramModel, count_ngrams

BITS = 22  # so many buckets that a few hundred n-grams hardly collide


def plain_counts(text: str) -> Counter[str]:
    text = " ".join(text.lower().split())
    return Counter(text[i : i + n] for n in range(2, 6) for i in range(len(text) - n + 1))


def test_counts_are_those_of_a_plain_count(sample_texts):
    texts = [*sample_texts[:50], "", "a", " Ab  ab\n", "😀😀😀😀😀😀", "\ud83d x"]
    counts = count_ngrams(texts, BITS)
    for row, text in enumerate(texts):
        found = sorted(counts.count[counts.row == row].tolist())
        expected = sorted(map(float, plain_counts(text).values()))
        assert abs(len(found) - len(expected)) <= 1, "more than one collision"
        assert sum(found) == sum(expected)


def test_a_text_counts_the_same_whatever_its_neighbours(sample_texts):
    together = count_ngrams(sample_texts[:20], 16)
    for row, text in enumerate(sample_texts[:20]):
        alone = count_ngrams([text], 16)
        assert np.array_equal(together.bucket[together.row == row], alone.bucket)
        assert np.array_equal(together.count[together.row == row], alone.count)


def test_one_equal_ngram_hashes_alike_at_every_place():
    first, second = (set(count_ngrams([text], BITS).bucket.tolist()) for text in ("сайн уу", "за сайн уу"))
    assert first <= second


@pytest.fixture
def model() -> NgramModel:
    rng = np.random.default_rng(0)
    idf = rng.uniform(0, 2, 1 << 10).astype(np.float16).astype(np.float32)
    weights = rng.normal(size=(1 << 10, 3)).astype(np.float16).astype(np.float32)
    return NgramModel(idf, weights, np.array([0.1, -0.2, 0.3], np.float32))


def test_the_file_holds_the_model(model, sample_texts):
    again = NgramModel.from_bytes(model.to_bytes(), 3)
    assert np.array_equal(again.logits(sample_texts[:9]), model.logits(sample_texts[:9]))


def test_logits_do_not_depend_on_neighbours_or_order(model, sample_texts):
    together = model.logits(sample_texts[:30])
    assert together.shape == (30, 3)
    alone = np.concatenate([model.logits([text]) for text in sample_texts[:30]])
    assert np.abs(together - alone).max() < 1e-6
    assert np.allclose(model.logits([""]), model.bias)


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"x" + data[1:], lambda data: b""])
def test_a_damaged_file_is_refused(model, damage):
    with pytest.raises(BundleError):
        NgramModel.from_bytes(damage(model.to_bytes()), 3)


def test_a_model_for_other_classes_is_refused(model):
    with pytest.raises(BundleError, match="2 classes"):
        NgramModel.from_bytes(model.to_bytes(), 2)
