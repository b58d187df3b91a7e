"""What is measured: a model of a given shape, the texts, and what PyTorch in fp32 says of them.

A case is a directory that every peer reads and none writes:

    checkpoint/        Hugging Face files with the tokenizer in both forms (SentencePiece and tokenizer.json)
    calibration.tsv    texts that are not measured, labelled by the model: for peers that calibrate or train
    sample.json        the texts measured
    dump.json          the file's rows as they are, repeats and all
    reference.npy      float32 [n, k], probabilities of the unique texts by PyTorch in fp32

``build_case.py`` makes it. This module is imported by every worker before its first score, so it imports nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = 32_000  # rows of the embedding table, as tugstugi/mongolian-bert has
LABELS = ("А", "Б", "В")
MAX_TOKENS = 128


@dataclass(frozen=True)
class Shape:
    """A BERT: ``layers`` of ``width`` with ``heads``, the feed-forward block ``inner`` wide, ``vocabulary`` pieces."""

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int = VOCABULARY

    @property
    def weights(self) -> int:
        """Numbers that a token is multiplied with."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.inner)


SHAPES = {
    "bert-base": Shape(12, 768, 12, 3072),
    "6x384": Shape(6, 384, 12, 1536),
    "4x312": Shape(4, 312, 12, 1200),  # TinyBERT's
    "tiny": Shape(2, 32, 2, 64, 4000),  # for tests
}
TRAINED = {"e5-small-mn": "e5-small-mn"}  # case -> row of jirgee_train.bases.BASES
MOST_TEXTS = 8  # times those of bert-base


def times_texts(case: str) -> int:
    """How many times the texts of bert-base make a round of a smaller shape as long: a short one measures a moment."""
    return min(MOST_TEXTS, max(1, SHAPES["bert-base"].weights // SHAPES[case].weights)) if case in SHAPES else 1


@dataclass(frozen=True)
class Sample:
    """``unique``: texts without repeats, in random order. ``raw``: random rows of the file. ``tokens``: lengths of
    ``unique``. ``source``: the file's name.
    """

    unique: list[str]
    raw: list[str]
    tokens: list[int]
    source: str


class Case:
    """The directory ``path`` and where things are in it."""

    def __init__(self, path: Path):
        self.path, self.checkpoint = path, path / "checkpoint"
        self.calibration, self.reference = path / "calibration.tsv", path / "reference.npy"

    @property
    def name(self) -> str:
        return self.path.name

    def sample(self) -> Sample:
        return Sample(**json.loads((self.path / "sample.json").read_text(encoding="utf-8")))

    def dump(self) -> list[str]:
        """The file's first rows as they are, for those who gain by repeats; apart from the sample, for it is large."""
        return json.loads((self.path / "dump.json").read_text(encoding="utf-8"))

    def shape(self) -> Shape:
        config = json.loads((self.checkpoint / "config.json").read_text(encoding="utf-8"))
        names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
        return Shape(*(config[name] for name in names))
