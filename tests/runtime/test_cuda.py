"""Shapes, buffers and options of a GPU, on the CPU: what no GPU is needed for. ``benchmarks/gpu.sh`` does the rest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jirgee import cli, cuda, providers
from jirgee.bundle import Bundle
from jirgee.cuda import Bound, rows_of, widths
from jirgee.scorer import Scorer

ROOT = Path(__file__).resolve().parents[2]
CPU = "CPUExecutionProvider"
PADDED = 1e-5  # what padding may change in 32-bit floats, as in test_scorer; buffers alone: 1e-6


@pytest.fixture
def graphed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scorer]:
    """A scorer that does all it does on ``cuda-graph``, but with the CPU's provider under it."""
    monkeypatch.setitem(providers.DEVICES, "cuda-graph", (CPU, {"enable_cuda_graph": "1"}))
    monkeypatch.setitem(providers.BEHIND, "cuda-graph", ())
    monkeypatch.setattr(providers, "why_not", lambda device: None)
    with Scorer.load(tiny_bundle, "cuda-graph", threads=3, token_budget=600) as loaded:
        yield loaded


def test_widths_are_few_near_and_never_too_wide() -> None:
    lengths = np.arange(1, 513)
    rounded = widths(lengths, 512)
    assert (rounded >= lengths).all()
    assert (rounded[64:] - lengths[64:] < lengths[64:] / 4).all()
    assert (rounded[:64] - lengths[:64] <= 7).all()
    assert len(set(rounded.tolist())) == 20
    assert widths(np.array([1, 8, 9, 64, 65, 130]), 512).tolist() == [8, 8, 16, 64, 80, 160]
    assert widths(np.array([3, 60, 62]), 62).tolist() == [8, 62, 62], "the model has no place for more than 62"


def test_rows_are_powers_of_two_up_to_a_full_batch() -> None:
    assert [rows_of(count, 20) for count in (1, 2, 3, 5, 9, 16, 17, 20)] == [1, 2, 4, 8, 16, 16, 20, 20]
    assert rows_of(1, 0) == 1, "a text longer than the budget"


def test_scores_through_rounded_shapes_and_buffers_are_those_without(
    graphed: Scorer, scorer: Scorer, sample_texts: list[str]
) -> None:
    assert graphed._bound
    assert graphed._bound.graphs
    for texts in (sample_texts[:200], sample_texts[:1], sample_texts[100:207]):
        np.testing.assert_allclose(graphed.score(texts).probs, scorer.score(texts).probs, atol=PADDED)
    assert graphed.threads == 1, "CUDA graphs are not for several threads"


def test_a_shape_that_returns_finds_its_buffers(graphed: Scorer, sample_texts: list[str]) -> None:
    bound, feed = graphed._bound, _feed(graphed, 3, 16)
    assert bound
    bound.run(feed, 4)
    (bucket,) = bound.buckets.values()
    places = [value.data_ptr() for value in (*bucket.inputs.values(), bucket.output)]
    other = bound.run(_feed(graphed, 4, 16, seed=1), 4)
    again = bound.run(feed, 4)
    assert [bucket] == list(bound.buckets.values())
    assert places == [value.data_ptr() for value in (*bucket.inputs.values(), bucket.output)]
    assert (len(other), len(again)) == (4, 3)
    np.testing.assert_allclose(again, graphed._session.run(None, feed)[0], atol=1e-6)


def test_every_bucket_is_a_graph_of_its_own_and_further_ones_are_none(
    graphed: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "MOST", 2)
    bound, seen = graphed._bound, []
    assert bound
    real = bound._session

    def note(options: Any) -> None:
        seen.append(options.get_run_config_entry("gpu_graph_id"))

    def bare(names: None, feed: Any, options: Any) -> Any:
        note(options)
        return real.run(names, feed)

    def through(binding: Any, options: Any) -> None:
        note(options)
        real.run_with_iobinding(binding)

    bound._session = SimpleNamespace(io_binding=real.io_binding, run=bare, run_with_iobinding=through)
    for width in (8, 16, 8, 24, 24):
        feed = _feed(graphed, 2, width)
        np.testing.assert_allclose(bound.run(feed, 2), real.run(None, feed)[0], atol=1e-6)
    assert seen == ["1", "2", "1", "-1", "-1"]


def test_threads_do_not_share_buffers(scorer: Scorer) -> None:
    bound = Bound(scorer._session, scorer._inputs, 2, "cpu")
    feeds = [_feed(scorer, 4, 16, seed) for seed in range(8)]
    alone = [scorer._session.run(None, feed)[0] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, expected in zip(pool.map(lambda feed: bound.run(feed, 4), feeds), alone, strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not bound.graphs
    assert not bound.pinned


def test_page_locked_memory_is_used_where_it_is_the_buffer_itself(scorer: Scorer) -> None:
    bound = Bound(scorer._session, scorer._inputs, 2, "cpu")
    array, source = bound._staging((2, 8), np.int32)
    assert array is source
    assert cuda._page_locked("CUDAExecutionProvider") is None, "there is no such device in this onnxruntime"
    block = np.zeros(3)
    assert cuda._same_memory(block, lambda: block)
    assert not cuda._same_memory(block, lambda: np.zeros(3))


def test_engines_are_kept_for_one_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = Bundle.load(tiny_bundle)
    kept = cuda.provider_options(here, "tensorrt")
    assert Path(kept["trt_engine_cache_path"]).is_relative_to(tmp_path / "cache" / "jirgee" / "engines")
    assert Path(kept["trt_engine_cache_path"]).is_dir()
    half = cuda.provider_options(make_bundle(recipe="fp16"), "tensorrt")
    assert half["trt_engine_cache_path"] != kept["trt_engine_cache_path"]
    assert half["trt_fp16_enable"] == "1"
    assert "trt_fp16_enable" not in kept
    assert cuda.provider_options(here, "cuda") == {}
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cuda.provider_options(here, "tensorrt") == {}


@pytest.mark.parametrize(("device", "notes"), [("auto", 1), ("cpu", 0)])
def test_the_command_says_once_why_auto_took_the_cpu(
    device: str, notes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "auto_note", lambda: "taking the CPU")
    assert cli.main(["eval", str(tmp_path / "nowhere"), "rows.tsv", "--device", device]) == 1
    assert capsys.readouterr().err.count("jirgee: taking the CPU\n") == notes


def test_gpu_sh_says_in_one_line_that_there_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["sh", ROOT / "benchmarks" / "gpu.sh", "bundle"], capture_output=True, text=True, env={"PATH": path}
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no NVIDIA GPU" in done.stderr


def test_what_gpu_sh_measures_is_there(tiny_bundle: Path, sample_texts: list[str], scorer: Scorer) -> None:
    from benchmarks.gpu import measure, settings

    texts = sample_texts[:40]
    found = measure(Bundle.load(tiny_bundle), texts, scorer.score(texts).probs, "cpu", True, 512, rounds=1, singles=5)
    assert found["max_change"] <= 1e-5
    assert found["flips"] == 0
    assert found["texts_per_second"] > 0
    assert set(found["latency_ms"]) == {"p50", "p99"}
    assert {(device, bound) for device, bound, _ in settings()} == {
        ("cuda", True),
        ("cuda", False),
        ("cuda-graph", True),
        ("tensorrt", True),
        ("tensorrt", False),
    }


def _feed(scorer: Scorer, rows: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(10, 500, (rows, width)), np.ones((rows, width))
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros((rows, width))}
    return {name: arrays[name].astype(kind) for name, kind in scorer._inputs.items()}
