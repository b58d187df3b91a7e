"""``jirgee bench``: what is measured where, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jirgee.bench import bench, told
from jirgee.cli import main
from jirgee.errors import MachineError

pytest.importorskip("onnxruntime")


def test_repeats_count_for_the_file_and_not_for_the_texts(tiny_bundle: Path, texts: list[str]) -> None:
    rows = texts[:10] * 40
    figures = bench(tiny_bundle, rows, "cpu", 1, rounds=2, cold_starts=0)
    assert (figures["texts"], figures["rows"]) == (10, 400)
    assert len(figures["rounds"]) == len(figures["row_rounds"]) == 2
    # 40 times the rows for the work of 10: even a busy machine cannot hide a factor of 5
    assert figures["rows_per_second"] > 5 * figures["texts_per_second"]
    assert "98% of them repeats" in told(figures)
    assert "cold start" not in told(figures)


def test_without_repeats_there_is_one_rate(tiny_bundle: Path, texts: list[str]) -> None:
    figures = bench(tiny_bundle, texts[:10], "cpu", 1, rounds=1, cold_starts=0)
    assert figures["row_rounds"] == figures["rounds"]
    assert "repeats" not in told(figures)


def test_cold_start_is_that_of_a_process_of_its_own(tiny_bundle: Path, texts: list[str]) -> None:
    """This process has PyTorch in memory; one that only scores has not."""
    pytest.importorskip("torch")
    figures = bench(tiny_bundle, texts[:3], "cpu", 1, rounds=1, cold_starts=1)
    assert figures["cold_start_s"] > 0
    assert 20 << 20 < figures["cold_rss_bytes"] < figures["peak_rss_bytes"]
    assert json.dumps(figures)


def test_a_device_that_is_not_there_is_one_line(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MachineError):
        bench(tiny_bundle, ["a"], "tpu")
    assert main(["bench", str(tiny_bundle), "missing.csv"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_limit_takes_the_first_rows(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("text\n" + "".join(f"мөр {i}\n" for i in range(50)), encoding="utf-8")
    arguments = ["bench", str(tiny_bundle), str(tmp_path / "rows.csv"), "--limit", "7", "--rounds", "1", "--json"]
    assert main([*arguments, "--device", "cpu", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 7
