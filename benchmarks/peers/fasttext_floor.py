"""fastText: the floor. Trained on the calibration texts, so its labels are a rough guess at the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jirgee.checkpoint import read_labels

from ..cases import Case
from . import Variant

ABOUT = "fasttext.train_supervised with character n-grams"
SOURCES = ("https://fasttext.cc/docs/en/supervised-tutorial.html (epochs, word bigrams, subwords)",)
NEEDS = ("fasttext",)
VARIANTS = {"bow": Variant("words, bigrams and 2- to 5-grams of characters", "other")}
THROUGHPUT = [{}]
LATENCY = [{}]
COMPARABLE = False
PREFIX = "__label__"


def prepare(case: Case, out: Path, variant: str) -> None:
    import fasttext

    from jirgee.labelled import read_labelled

    rows = read_labelled(case.calibration)
    file = out.with_name(f"{out.name}.txt")
    lines = [f"{PREFIX}{label} {text}" for text, label in zip(rows.texts, rows.labels, strict=True)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = fasttext.train_supervised(
        str(file), epoch=25, lr=0.5, wordNgrams=2, minn=2, maxn=5, dim=50, bucket=200_000, thread=1, verbose=0
    )
    model.save_model(str(out / "model.bin"))
    file.unlink()


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    import fasttext

    names = {f"{PREFIX}{label}": i for i, label in enumerate(read_labels(case.checkpoint) or [])}
    return fasttext.load_model(str(out / "model.bin")), names


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    model, names = loaded
    labels, values = model.predict([" ".join(text.split()) for text in texts], k=-1)
    probs = np.zeros((len(texts), len(names)), np.float32)
    for row, (found, shares) in enumerate(zip(labels, values, strict=True)):
        for label, share in zip(found, shares, strict=True):
            probs[row, names[label]] = share
    return probs


def close(loaded: Any) -> None:
    pass
