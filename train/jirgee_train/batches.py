"""Texts -> padded tensors: the rows, the collator and the order of batches that every training loop here shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from jirgee.checkpoint import Settings
from jirgee.plan import plan
from jirgee.tokens import Encoded, Tokenizer

POOL = 50  # batches that are drawn together and sorted by length: little padding, still a random order


def load_tokenizer(settings: Settings, directory: Path) -> Tokenizer:
    return Tokenizer(settings.tokenizer, (directory / settings.tokenizer.file).read_bytes(), settings.max_tokens)


def tensors(encoded: Encoded, rows: np.ndarray, pad_id: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """``input_ids`` and ``attention_mask`` int64 [len(rows), longest] of the given rows, on ``device``."""
    ids, mask = encoded.padded(rows, int(encoded.lengths[rows].max()), pad_id)
    return {
        "input_ids": torch.from_numpy(ids).long().to(device),
        "attention_mask": torch.from_numpy(mask).long().to(device),
    }


def grouped_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Every row once, in random batches of rows of similar length, themselves in random order."""
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    return [batches[at] for at in rng.permutation(len(batches))]


@torch.inference_mode()
def predict(
    model: PreTrainedModel, settings: Settings, directory: Path, texts: Sequence[str], budget: int = 2048
) -> np.ndarray:
    """Logits float32 [n, k] of ``texts`` in PyTorch, in sorted batches of at most ``budget`` tokens."""
    model.eval()
    encoded = load_tokenizer(settings, directory).encode(texts)
    logits = np.zeros((len(texts), model.config.num_labels), dtype=np.float32)
    for batch in plan(encoded.lengths, budget):
        output = model(**tensors(encoded, batch.rows, settings.tokenizer.pad_id, model.device))
        logits[batch.rows] = output.logits.float().cpu().numpy()
    return logits


class Rows(torch.utils.data.Dataset):
    """Encoded texts with their labels; ``length`` is what the sampler groups by."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], gold: np.ndarray):
        encoded = tokenizer.encode(texts)
        self._ids, self._gold = np.split(encoded.ids, encoded.offsets[1:-1]), gold

    def __len__(self) -> int:
        return len(self._gold)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self._ids[row], "labels": int(self._gold[row]), "length": len(self._ids[row])}


def collator(pad_id: int):
    """A function that pads a list of ``Rows`` to its longest."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [row["length"] for row in rows]
        flat = np.concatenate([row["input_ids"] for row in rows])
        encoded = Encoded(flat, np.concatenate(([0], np.cumsum(lengths))), np.zeros(len(rows), dtype=bool))
        padded = tensors(encoded, np.arange(len(rows)), pad_id)
        return {**padded, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate
