"""transformers' own pipeline: what most tutorials show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jirgee.machine import cpu_count

from ..cases import MAX_TOKENS, Case
from . import Variant
from .batches import by_label

ABOUT = "transformers.pipeline('text-classification') with its fast tokenizer"
SOURCES = ("https://huggingface.co/docs/transformers/main_classes/pipelines (batching: measure; on CPU often none)",)
NEEDS = ("torch", "transformers")
VARIANTS = {"fp32": Variant("fp32")}
THROUGHPUT = [{"batch_size": size} for size in (1, 8, 32)]
LATENCY = [{"batch_size": 1}]


def prepare(case: Case, out: Path, variant: str) -> None:
    (out / "checkpoint").symlink_to(case.checkpoint.resolve(), target_is_directory=True)


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    import torch
    from transformers import pipeline

    torch.set_num_threads(cpu_count())
    return pipeline("text-classification", str(out / "checkpoint"), device=-1, top_k=None), settings["batch_size"]


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    run, batch_size = loaded
    outputs = run(texts, batch_size=batch_size, truncation=True, max_length=MAX_TOKENS)
    return by_label(outputs, run.model.config.label2id)


def close(loaded: Any) -> None:
    pass
