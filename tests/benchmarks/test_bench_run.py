"""The whole benchmark on a tiny shape with two peers, as ``make bench`` runs it; and what is published of it."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.build_case import CALIBRATION_TEXTS, _copy, draw_sample
from benchmarks.cases import MAX_TOKENS
from benchmarks.peak import product
from benchmarks.plots import apart
from benchmarks.publish import BEGIN, END, between, publish
from benchmarks.run import main
from jirgee.checkpoint import SETTINGS, read_settings
from jirgee.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_measured_is_not_what_calibrates() -> None:
    texts = [f"text {i // 2}" for i in range(2000)]
    sample, calibration = draw_sample(texts, "x", 100, 50)
    assert len(calibration) == CALIBRATION_TEXTS
    assert len(set(sample.unique)) == len(sample.unique) == 100
    assert not set(sample.unique) & set(calibration)
    assert len(sample.raw) == 50
    assert draw_sample(texts, "x", 100, 50)[0] == sample, "the same in every run"


def test_a_trained_checkpoint_is_taken_without_what_peers_do_not_know(tmp_path: Path, spm_bert_model: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    shutil.copyfile(spm_bert_model, given / "mn_uncased.model")
    replace(read_settings(given), max_tokens=64, temperature=2.5, ngram_weight=0.4).write(given)
    for name in ("config.json", "model.safetensors", "ngrams.npz", "report.html"):
        (given / name).write_bytes(b"{}")
    _copy(given, out)
    settings = read_settings(out)
    assert (settings.max_tokens, settings.temperature, settings.ngram_weight) == (MAX_TOKENS, 1.0, 0.0)
    assert {path.name for path in out.iterdir()} == {SETTINGS, "config.json", "model.safetensors", "mn_uncased.model"}


def test_labels_of_the_plot_are_kept_apart() -> None:
    heights = sorted((random.Random(0).random() for _ in range(12)), reverse=True)
    placed = apart(heights, 0.05)
    assert min(a - b for a, b in pairwise(placed)) >= 0.05 - 1e-9
    assert min(placed) >= 0
    assert apart([0.9, 0.5], 0.05) == [0.9, 0.5], "what is apart stays"
    assert apart([0.02, 0.01, 0.0], 0.1) == pytest.approx([0.2, 0.1, 0.0]), "from the floor up"


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_peaks_multiply_what_they_say(kind: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    model = product(kind, 6, 4)
    weights = onnx.numpy_helper.to_array(onnx.load_from_string(model).graph.initializer[0])
    x = np.arange(12).reshape(2, 6).astype(np.float32 if kind == "fp32" else np.uint8)
    [y] = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(y, x.astype(np.float64) @ weights.astype(np.float64), rtol=1e-5)


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert between(between(page, "new"), "new") == between(page, "new")
    with pytest.raises(InputError, match="needs the lines"):
        between("no marks", "new")


def test_the_page_of_the_project_has_the_marks() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "table" in between(page, "table")


def test_an_unknown_peer_and_a_missing_file_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--peers", "nobody"]) == 1
    assert "no peer 'nobody'" in capsys.readouterr().err
    assert main(["--texts", str(tmp_path / "none.csv"), "--cases", "tiny", "--work", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str], samples: Path) -> None:
    for module in ("optimum.exporters.onnx", "sklearn", "matplotlib", "accelerate"):
        pytest.importorskip(module)
    arguments = ["--cases", "tiny", "--peers", "ours-fp32", "tfidf_floor", "nano", "--rounds", "1", "--unique", "12"]
    arguments += ["--singles", "2", "--dump", "60", "--texts", str(samples / "tweets.csv")]
    out = tmp_path / "results"
    assert main([*arguments, "--work", str(tmp_path / "work"), "-o", str(out)]) == 0
    printed = capsys.readouterr()
    result = json.loads((out / "tiny.json").read_text(encoding="utf-8"))
    ours, floor = result["summary"]["ours-fp32"], result["summary"]["tfidf_floor-lr"]
    assert ours["agreement"]["labels"] == 1
    assert ours["agreement"]["max_change"] < 1e-3
    assert floor["agreement"] is None
    for row in (ours, floor):
        assert row["unique_per_s"]["median"] > 0
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert row["cold_start_s"]["median"] > 0
        assert row["peak_rss_bytes"] >= row["first_rss_bytes"] > 0
        assert row["size_bytes"] > 0
    assert 0 < ours["peak_share"]["median"] < 1
    assert "runs only e5-small-mn" in result["peers"]["nano-q4"]["skipped"]
    assert "**ours-fp32**" in printed.out
    assert (out / "tiny-latency.png").read_bytes().startswith(b"\x89PNG")

    for folder in ("docs", "benchmarks"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    page = tmp_path / "root" / "docs" / "benchmarks.md"
    page.write_text(f"# Ours\n{BEGIN}\n{END}\n", encoding="utf-8")
    assert publish(out, tmp_path / "root") == ["tiny"]
    assert "**ours-fp32**" in page.read_text(encoding="utf-8")
    assert (tmp_path / "root" / "docs" / "benchmarks" / "tiny-throughput.png").is_file()
    assert (tmp_path / "root" / "benchmarks" / "results" / "tiny.json").is_file()

    assert main([*arguments, "--work", str(tmp_path / "work"), "--prepare-only"]) == 0
    assert "preparing" not in capsys.readouterr().err, "what is prepared stays"
