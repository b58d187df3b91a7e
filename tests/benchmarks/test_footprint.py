"""Budgets of a small machine, in bytes and counts, which a busy machine does not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import footprint
from benchmarks.footprint import BUDGETS, MB, Row, base_size, import_cost, installed, row, told
from jirgee.cli import main


def test_a_budget_is_kept_up_to_itself() -> None:
    assert Row("a", 6 * MB, "bytes", 6 * MB).kept
    assert not Row("a", 6 * MB + 1, "bytes", 6 * MB).kept
    assert row("import jirgee", 99.0, "s").kept  # a time has no budget
    assert "**exceeded**" in told([row("tiny bundle", 9 * MB)])
    assert "| 7.5 MB | 8.0 MB | kept |" in told([row("tiny bundle", 7.5 * MB)])


def test_ten_thousand_different_texts(tmp_path: Path, sample_texts: list[str]) -> None:
    lines = footprint.ten_thousand(sample_texts, tmp_path / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["text"] for line in lines}) == len(lines) == 10_000


def test_importing_stays_light() -> None:
    _, modules = import_cost()
    assert modules <= BUDGETS["modules of import jirgee beyond Python and numpy"]


@pytest.mark.slow
def test_the_base_installation_keeps_its_budget(lean: Path) -> None:
    sizes = installed(lean / "python")
    assert {"jirgee", "sentencepiece", "tqdm", "numpy", "onnxruntime"} <= set(sizes)
    assert base_size(sizes) <= BUDGETS["installed without onnxruntime and numpy"], sizes


@pytest.mark.slow
def test_memory_of_the_default_bundle(default_bundle: Path, sample_texts: list[str], tmp_path: Path) -> None:
    """The default base with a head that has learned nothing: the size and the work are those of a trained one."""
    assert sum(path.stat().st_size for path in default_bundle.iterdir()) <= BUDGETS["default bundle"]
    tweets = footprint.ten_thousand(sample_texts, tmp_path / "tweets.jsonl")
    short = tmp_path / "short.jsonl"
    with tweets.open(encoding="utf-8") as lines:
        short.write_text("".join(next(lines) for _ in range(2000)), encoding="utf-8")
    assert footprint.job_memory(default_bundle, short) <= BUDGETS["memory of 10,000 tweets"]
    low = footprint.job_memory(default_bundle, short, "--low-memory")
    assert low <= BUDGETS["memory of 10,000 tweets, --low-memory"]


def test_low_memory_gives_the_same_scores(tiny_bundle: Path, samples: Path, tmp_path: Path) -> None:
    for name, flags in (("plain", []), ("low", ["--low-memory"])):
        out = str(tmp_path / f"{name}.jsonl")
        assert main(["score", str(tiny_bundle), str(samples / "dev.tsv"), "-o", out, "--quiet", *flags]) == 0
    plain, low = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("plain", "low")
    )
    assert [one["predicted_label"] for one in plain] == [one["predicted_label"] for one in low]
    assert [one["predicted_score"] for one in plain] == pytest.approx([one["predicted_score"] for one in low], abs=1e-5)


def test_low_memory_is_one_thread(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["score", str(tiny_bundle), "-", "--low-memory", "--threads", "2"])
    assert stop.value.code == 2
    assert "leave --threads out" in capsys.readouterr().err
