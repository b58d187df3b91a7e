"""A checkpoint held against labelled rows, in PyTorch: what ``jirgee eval`` will say of its bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jirgee.bundle import NGRAMS
from jirgee.checkpoint import read_labels, read_settings
from jirgee.errors import InputError
from jirgee.labelled import Labelled, find_split, read_labelled
from jirgee.metrics import evaluate
from jirgee.ngrams import NgramModel

from .calibrate import Mix


def read_rows(paths: Sequence[Path], text_column: str, label_column: str) -> Labelled:
    """All rows of the files; of a directory its ``dev.*``. Raises InputError."""
    rows = Labelled([], [], [])
    for path in paths:
        file = find_split(path, "dev") if path.is_dir() else path
        if file is None:
            raise InputError("holds no dev.tsv, dev.csv or dev.jsonl", path)
        rows += read_labelled(file, text_column, label_column)
    return rows


def evaluate_checkpoint(checkpoint: Path, rows: Labelled) -> dict[str, Any]:
    """The figures of ``jirgee.metrics.evaluate``. Raises InputError if ``checkpoint`` is not a classifier."""
    classes = read_labels(checkpoint) if checkpoint.is_dir() else None
    if classes is None:
        raise InputError("is not a checkpoint with labels; make one with: jirgee train DATA -o CHECKPOINT", checkpoint)
    gold = rows.indices(classes)
    settings = read_settings(checkpoint)
    from .batches import predict
    from .model import load_classifier

    logits = predict(load_classifier(checkpoint, classes), settings, checkpoint, rows.texts)
    mix, ngram_logits = Mix(settings.temperature, settings.ngram_weight), None
    if settings.ngram_weight:
        ngrams = checkpoint / NGRAMS
        if not ngrams.is_file():
            raise InputError(f"has no {NGRAMS}, which its {settings.ngram_weight:g} of n-grams needs", checkpoint)
        ngram_logits = NgramModel.from_bytes(ngrams.read_bytes(), len(classes)).logits(rows.texts)
    return evaluate(mix.probs(logits, ngram_logits), gold, classes)
