"""What peers without a tokenizer and a batching of their own get: jirgee's, so that the engine is what differs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jirgee.checkpoint import read_settings
from jirgee.plan import plan
from jirgee.tokens import Tokenizer


class Batches:
    """Texts -> rectangles of token ids, sorted by length, each of at most ``tokens`` tokens."""

    def __init__(self, checkpoint: Path, tokens: int):
        settings = read_settings(checkpoint)
        self.pad_id, self.tokens = settings.tokenizer.pad_id, tokens
        file = (checkpoint / settings.tokenizer.file).read_bytes()
        self.tokenizer = Tokenizer(settings.tokenizer, file, settings.max_tokens)

    @staticmethod
    def save(checkpoint: Path, out: Path) -> None:
        """Put the tokenizer beside a converted model, so that ``out`` holds all that the peer needs."""
        settings = read_settings(checkpoint)
        settings.write(out)
        shutil.copyfile(checkpoint / settings.tokenizer.file, out / settings.tokenizer.file)

    def of(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each batch its rows, ``input_ids`` and ``attention_mask`` (int32 [rows, width])."""
        encoded = self.tokenizer.encode(texts)
        for batch in plan(encoded.lengths, self.tokens):
            yield batch.rows, *encoded.padded(batch.rows, batch.width, self.pad_id)


def by_label(outputs: Sequence[Sequence[dict]], labels: dict[str, int]) -> np.ndarray:
    """What a Hugging Face pipeline gives with ``top_k=None`` -> float32 [n, k]."""
    probs = np.zeros((len(outputs), len(labels)), np.float32)
    for row, output in enumerate(outputs):
        for entry in output:
            probs[row, labels[entry["label"]]] = entry["score"]
    return probs
