"""The hashed n-gram model: features against a plain count, the file, and the mix in a scorer."""

from __future__ import annotations

import io
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


def test_only_the_buckets_that_are_used_are_stored(model, sample_texts):
    model.idf[::4] = model.idf[1::4] = model.idf[2::4] = 0
    used = int((model.idf > 0).sum())
    data = model.to_bytes()
    assert used * (2 + 3 * 2) + 1024 // 8 < len(data) < used * (2 + 3 * 2) + 1024 // 8 + 1200
    again = NgramModel.from_bytes(data, 3)
    assert np.array_equal(again.logits(sample_texts), model.logits(sample_texts))
    assert np.ptp(again.logits(sample_texts), axis=0).min() > 0.1


def test_a_file_of_every_bucket_is_read(model, sample_texts):
    """As checkpoints had it before, and as any writer may: without the array of bits."""
    out = io.BytesIO()
    np.savez(out, idf=model.idf.astype(np.float16), weights=model.weights.astype(np.float16), bias=model.bias)
    again = NgramModel.from_bytes(out.getvalue(), 3)
    assert np.array_equal(again.logits(sample_texts[:9]), model.logits(sample_texts[:9]))


def saved(save=np.savez, **arrays) -> bytes:
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


SOUND = {
    "idf": np.ones(4, np.float16),
    "weights": np.ones((4, 3), np.float16),
    "bias": np.zeros(3, np.float32),
    "used": np.array([15, 0], np.uint8),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"used": np.zeros((2, 1), np.uint8)}, "power of two"),
        ({"used": np.array([15, 0], np.int64)}, "power of two"),
        ({"used": np.zeros(3, np.uint8)}, "power of two"),
        ({"used": np.zeros(0, np.uint8)}, "power of two"),
        ({"used": np.zeros(1 << 22, np.uint8)}, "power of two"),
        ({"used": np.array([15, 1], np.uint8)}, "do not fit"),
        ({"idf": np.ones(5)}, "do not fit"),
        ({"weights": np.ones((4, 2))}, "do not fit"),
        ({"bias": np.array([object()])}, "cannot be read"),
        ({"idf": np.array(["x"])}, "cannot be read"),
    ],
)
def test_arrays_that_are_no_model(change, words):
    NgramModel.from_bytes(saved(**SOUND), 3)
    with pytest.raises(BundleError, match=words):
        NgramModel.from_bytes(saved(**SOUND | change), 3)


def test_nothing_is_inflated():
    with pytest.raises(BundleError, match="compressed"):
        NgramModel.from_bytes(saved(np.savez_compressed, **SOUND), 3)


def test_an_array_that_claims_more_than_there_is():
    data = saved(**SOUND)
    shape = b"'shape': (4,), "
    assert data.count(shape) == 1
    with pytest.raises(BundleError):
        NgramModel.from_bytes(data.replace(shape, b"'shape': (4e9,)"), 3)
    with pytest.raises(BundleError):
        NgramModel.from_bytes(data.replace(shape, b"'shape': (1<<9)"), 3)
    with pytest.raises(BundleError):
        NgramModel.from_bytes(data.replace(shape, b"'shape':(9**9,)"), 3)
    with pytest.raises(BundleError):
        NgramModel.from_bytes(data.replace(shape, b"'shape': (99,),"), 3)


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
