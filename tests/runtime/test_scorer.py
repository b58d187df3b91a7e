"""The engine: order kept, the same text the same score, whatever its company, threads or callers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jirgee import scorer as engine
from jirgee.bundle import Bundle
from jirgee.errors import BundleError, MachineError
from jirgee.scorer import Scorer, Scores, softmax

FP32 = 1e-5


@pytest.fixture(scope="module")
def many(sample_texts: list[str]) -> list[str]:
    return sample_texts[:400]


@pytest.fixture(scope="module")
def expected(scorer: Scorer, many: list[str]) -> Scores:
    return scorer.score(many)


def count_runs(monkeypatch: pytest.MonkeyPatch, loaded: Scorer) -> list[int]:
    """The rows of every batch that ``loaded`` computes from now on."""
    run, seen = loaded._run, []

    def counted(encoded: Any, batch: Any) -> np.ndarray:
        seen.append(len(batch.rows))
        return run(encoded, batch)

    monkeypatch.setattr(loaded, "_run", counted)
    return seen


def test_shapes_and_types(expected: Scores, many: list[str]) -> None:
    assert expected.probs.shape == (len(many), 2)
    assert expected.probs.dtype == np.float32
    assert expected.classes == ["comedian", "commentator"]
    assert expected.truncated.dtype == bool
    assert len(expected) == len(expected.labels) == len(many)
    assert set(expected.labels) == set(expected.classes)


def test_rows_are_probabilities(expected: Scores) -> None:
    assert np.isfinite(expected.probs).all()
    assert (expected.probs >= 0).all()
    np.testing.assert_allclose(expected.probs.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(expected.confidence, expected.probs.max(axis=1))
    assert expected.labels[0] == expected.classes[int(expected.probs[0].argmax())]


def test_input_order_is_kept(scorer: Scorer, expected: Scores, many: list[str]) -> None:
    order = np.random.default_rng(0).permutation(len(many))
    shuffled = scorer.score([many[i] for i in order])
    np.testing.assert_allclose(shuffled.probs, expected.probs[order], atol=FP32)
    assert np.ptp(expected.probs[:, 0]) > 0.5, "all the same: order proves nothing"


def test_one_text_scores_as_in_a_batch(scorer: Scorer, expected: Scores, many: list[str]) -> None:
    for i in range(0, 400, 10):
        np.testing.assert_allclose(scorer.score([many[i]]).probs[0], expected.probs[i], atol=FP32)


def test_repeats_get_the_same_score_and_are_computed_once(
    scorer: Scorer, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_runs(monkeypatch, scorer)
    scores = scorer.score([*many[:50], *many[:50][::-1], *[many[0]] * 100])
    assert sum(seen) == len(set(many[:50]))
    np.testing.assert_array_equal(scores.probs[:50], scores.probs[50:100][::-1])
    assert (scores.probs[100:] == scores.probs[0]).all()


def test_windows_change_nothing(
    scorer: Scorer, expected: Scores, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WINDOW", 7)
    np.testing.assert_allclose(scorer.score(many).probs, expected.probs, atol=FP32)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("token_budget", [1, 100, 10_000])
def test_threads_and_budget_change_nothing(
    tiny_bundle: Path, expected: Scores, many: list[str], threads: int, token_budget: int
) -> None:
    with Scorer.load(tiny_bundle, "cpu", threads, token_budget) as other:
        assert other.threads == threads
        scores = other.score(many)
    np.testing.assert_allclose(scores.probs, expected.probs, atol=FP32)
    np.testing.assert_array_equal(scores.truncated, expected.truncated)


def test_in_the_calling_thread_nothing_changes(
    tiny_bundle: Path, expected: Scores, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scorer.load(tiny_bundle, threads=2, token_budget=64) as loaded:
        monkeypatch.setattr(loaded._workers, "submit", None)
        np.testing.assert_allclose(loaded.score(many, here=True).probs, expected.probs, atol=loaded.bundle.tolerance)


def test_concurrent_callers(tiny_bundle: Path, expected: Scores, many: list[str]) -> None:
    with Scorer.load(tiny_bundle, "cpu", 2, cache_texts=50) as shared, ThreadPoolExecutor(8) as callers:

        def call(seed: int) -> float:
            picked = np.random.default_rng(seed).integers(0, len(many), size=60)
            probs = shared.score([many[i] for i in picked]).probs
            return float(np.abs(probs - expected.probs[picked]).max())

        assert max(callers.map(call, range(40))) < FP32


def test_no_texts(scorer: Scorer) -> None:
    scores = scorer.score([])
    assert scores.probs.shape == (0, 2)
    assert scores.labels == []
    assert scores.confidence.shape == scores.truncated.shape == (0,)


def test_awkward_texts(scorer: Scorer) -> None:
    texts = ["", " ", "\0", "\ud83d", "😀" * 500, "\n\n", "蒙古", "x" * 100_000]
    scores = scorer.score(texts)
    assert np.isfinite(scores.probs).all()
    np.testing.assert_allclose(scores.probs, [scorer.score([text]).probs[0] for text in texts], atol=FP32)


def test_one_string_is_not_a_list_of_texts(scorer: Scorer) -> None:
    with pytest.raises(TypeError, match=r"score\(\[text\]\)"):
        scorer.score("сайн уу")


def test_truncated_texts_are_flagged(scorer: Scorer) -> None:
    long = "найз минь " * 200
    scores = scorer.score(["сайн", long, "", long])
    assert scores.truncated.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(scores.probs[1], scores.probs[3])


def test_the_cache_remembers_scores_and_flags(
    tiny_bundle: Path, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*many[:30], "найз минь " * 200]
    with Scorer.load(tiny_bundle, "cpu", 1, cache_texts=100) as cached:
        first = cached.score(texts)
        seen = count_runs(monkeypatch, cached)
        again = cached.score(texts[::-1])
        assert not seen
        np.testing.assert_array_equal(again.probs[::-1], first.probs)
        np.testing.assert_array_equal(again.truncated[::-1], first.truncated)
        assert first.truncated[-1]
        again.probs[:] = 0
        np.testing.assert_array_equal(cached.score(texts).probs, first.probs)
        cached.score([*texts, "шинэ"])
        assert sum(seen) == 1


def test_the_cache_forgets_the_oldest(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Scorer.load(tiny_bundle, "cpu", 1, cache_texts=2) as cached:
        cached.score(["a", "b"])
        cached.score(["a"])
        cached.score(["c"])  # "a" came first
        seen = count_runs(monkeypatch, cached)
        cached.score(["b", "c"])
        assert sum(seen) == 0
        cached.score(["a"])
        assert sum(seen) == 1
        assert cached._cache is not None
        assert len(cached._cache._slots) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(
    tiny_bundle: Path, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scorer.load(tiny_bundle, "cpu", 2) as broken:
        session = SimpleNamespace(run=lambda names, feed: [np.array([[0.0, bad]] * len(feed["input_ids"]))])
        monkeypatch.setattr(broken, "_session", session)
        with pytest.raises(BundleError, match="not a finite number"):
            broken.score(["a", "b", "c"])


def test_a_failing_session_is_one_line(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(names: Any, feed: Any) -> None:
        raise RuntimeError("Failed to allocate\n  memory for 3 bytes")

    with Scorer.load(tiny_bundle, "cpu", 1) as broken:
        monkeypatch.setattr(broken, "_session", SimpleNamespace(run=fail))
        with pytest.raises(MachineError, match=r"Failed to allocate memory.*lower the token budget") as error:
            broken.score(["a"])
    assert "\n" not in str(error.value)


def test_softmax() -> None:
    logits = np.array([[1.0, 3.0], [1000.0, -1000.0], [0.0, 0.0]])
    probs = softmax(logits)
    np.testing.assert_allclose(probs, [[0.119203, 0.880797], [1, 0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(softmax(logits, 2.0), softmax(logits / 2), atol=1e-7)
    assert softmax(logits, 10.0)[0, 1] < probs[0, 1]


def test_the_bundles_temperature_is_used(tiny_bundle: Path, tmp_path: Path, expected: Scores, many: list[str]) -> None:
    from jirgee.bundle import write

    bundle = Bundle.load(tiny_bundle)
    files: dict[str, bytes | Path] = {name: bundle.read(name) for name in bundle.files}
    warm = write(tmp_path / "warm", files, **bundle.facts | {"temperature": bundle.temperature * 3})
    with Scorer.load(warm, "cpu", 1) as loaded:
        scores = loaded.score(many)
    np.testing.assert_allclose(scores.probs, softmax(np.log(expected.probs.astype(float)), 3), atol=1e-4)
    assert scores.labels == expected.labels


def test_a_packed_bundle_scores_the_same(tiny_bundle: Path, tmp_path: Path, expected: Scores, many: list[str]) -> None:
    from jirgee.bundle import write

    bundle = Bundle.load(tiny_bundle)
    files: dict[str, bytes | Path] = {name: tiny_bundle / name for name in bundle.files}
    with Scorer.load(write(tmp_path / "tiny.jirgee", files, **bundle.facts).path, "cpu") as packed:
        np.testing.assert_allclose(packed.score(many).probs, expected.probs, atol=FP32)


def test_threads_must_be_positive(tiny_bundle: Path) -> None:
    for threads in (0, -1):
        with pytest.raises(MachineError, match="threads must be at least 1"):
            Scorer.load(tiny_bundle, threads=threads)


@pytest.mark.parametrize(("labels", "message"), [(["a", "b", "c"], "2 logits for 3 labels")])
def test_a_graph_that_is_not_the_manifests(tiny_bundle: Path, tmp_path: Path, labels: list[str], message: str) -> None:
    from jirgee.bundle import write

    bundle = Bundle.load(tiny_bundle)
    names = ("max_tokens", "tokenizer", "recipe", "safe_on", "ngram_weight", "tolerance", "provenance", "temperature")
    files: dict[str, bytes | Path] = {name: tiny_bundle / name for name in bundle.files}
    fields = {name: getattr(bundle, name) for name in names}
    with pytest.raises(BundleError, match=message):
        Scorer.load(write(tmp_path / "a", files, **fields, labels=labels, inputs=bundle.inputs), "cpu", 1)
    with pytest.raises(BundleError, match="inputs"):
        Scorer.load(write(tmp_path / "b", files, **fields, labels=bundle.labels, inputs=["input_ids"]), "cpu", 1)


def test_a_recipe_for_another_processor_warns(make_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(safe_on="int8_dot", recipe="int8")
    monkeypatch.setattr(engine, "probe", lambda: "saturating")
    with (
        pytest.warns(RuntimeWarning, match="recipe int8 needs a CPU with 8-bit dot products"),
        pytest.raises(BundleError),
    ):
        Scorer.load(bundle, "cpu", 1)


def test_scores_say_what_they_cost_and_what_was_not_known(tiny_bundle: Path, texts: list[str]) -> None:
    strange = "漢字 " * 3
    with Scorer.load(tiny_bundle, "cpu", threads=1, cache_texts=100) as scorer:
        scores = scorer.score([*texts, strange])
        lengths = scorer.tokenizer.encode(sorted({*texts, strange})).lengths
        assert scores.tokens == lengths.sum() <= scores.planned < 2 * scores.tokens
        assert scores.unknown[-1] >= 0.5
        assert scores.unknown[:-1].max() < 0.3
        assert scorer.score([""]).unknown == 0
        again = scorer.score([strange, texts[0]])
        assert (again.tokens, again.planned) == (0, 0)
        assert again.unknown.tolist() == [scores.unknown[-1], scores.unknown[0]]
