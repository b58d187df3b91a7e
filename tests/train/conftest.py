"""One real training of the tiny base, shared by the tests of this folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jirgee.cli import main
from jirgee_train.cli import TRAIN

# Without the extra [train] these cannot even be imported.
collect_ignore = (
    [
        "test_adapt.py",
        "test_distill.py",
        "test_bases.py",
        "test_cli.py",
        "test_evaluate.py",
        "test_failures.py",
        "test_fit.py",
        "test_model.py",
        "test_original_base.py",
        "test_precision.py",
        "test_processes.py",
        "test_resume.py",
    ]
    if TRAIN.missing()
    else []
)


@dataclass(frozen=True)
class Trained:
    """``out``: the checkpoint. ``results``: its eval_results.json."""

    out: Path
    results: dict[str, Any]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, original_base: Path, samples: Path) -> Trained:
    """``jirgee train samples`` on the tiny base in the layout of mn-tweet-bert: three epochs, a few seconds."""
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    flags = ["--epochs", "3", "--batch-size", "8", "--learning-rate", "3e-3", "--max-tokens", "40", "--patience", "0"]
    assert main(["train", str(samples), "-o", str(out), "--base", str(original_base), *flags]) == 0
    return Trained(out, json.loads((out / "eval_results.json").read_text(encoding="utf-8")))


def write_tsv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [header, *rows]), encoding="utf-8")
    return path
