"""Labelled files for the tests of training. The training that they share is in the conftest above."""

from __future__ import annotations

from pathlib import Path

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


def write_tsv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [header, *rows]), encoding="utf-8")
    return path
