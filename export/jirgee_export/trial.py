"""One recipe tried: the bundle it makes, what it lost, and how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.bundle import MODEL, NGRAMS, Bundle, write
from jirgee.check import this_machine
from jirgee.ngrams import NgramModel
from jirgee.scorer import Scorer

from .graph_source import Source
from .lower import lower
from .measure import Speed
from .quantise import RECIPES
from .sources import Checkpoint
from .verify import Comparison, Limits, compare

PACKAGES = ("jirgee", "torch", "transformers", "optimum", "onnx", "onnxruntime", "sentencepiece")


@dataclass(frozen=True)
class Evidence:
    """What recipes are judged by. ``texts``: n held-out texts with ``reference`` [n, k], the checkpoint's own scores,
    and ``gold`` int [n] where labels are known. ``unlabelled``: texts on which batch-mates are tried. ``data``: the
    name of the file of the held-out texts, None for strings of random pieces.
    """

    texts: Sequence[str]
    reference: np.ndarray
    gold: np.ndarray | None
    unlabelled: Sequence[str]
    data: str | None


@dataclass(frozen=True)
class Trial:
    """``failures``: each limit that was exceeded, in words. ``speed``: None where it was not measured."""

    bundle: Bundle
    comparison: Comparison
    failures: list[str] = field(default_factory=list)
    speed: Speed | None = None

    @property
    def recipe(self) -> str:
        return self.bundle.recipe

    def measured(self, speed: Speed) -> Trial:
        return replace(self, speed=speed)

    def to_json(self) -> dict[str, Any]:
        found = self.comparison.to_json() | {"failures": self.failures, "size": self.bundle.size}
        found |= {"safe_on": self.bundle.safe_on, "about": RECIPES[self.recipe].about}
        return found | {"speed": vars(self.speed) if self.speed else None}


def attempt(
    recipe: str, checkpoint: Checkpoint, source: Source, evidence: Evidence, limits: Limits, out: Path
) -> Trial:
    """Make the bundle of ``recipe`` in the directory ``out`` and hold it against the checkpoint."""
    stored = RECIPES[recipe].apply(source)
    if RECIPES[recipe].lowered:
        stored = lower(stored)
    settings = checkpoint.settings
    files: dict[str, bytes | Path] = {
        MODEL: stored.SerializeToString(),
        settings.tokenizer.file: checkpoint.path / settings.tokenizer.file,
    }
    if settings.ngram_weight:
        ngrams = (checkpoint.path / NGRAMS).read_bytes()
        files[NGRAMS] = NgramModel.from_bytes(ngrams, len(checkpoint.labels)).to_bytes()
    bundle = write(
        out,
        files,
        labels=checkpoint.labels,
        inputs=[value.name for value in stored.graph.input],
        max_tokens=settings.max_tokens,
        tokenizer=settings.tokenizer,
        recipe=recipe,
        safe_on=RECIPES[recipe].safe_on,
        temperature=settings.temperature,
        ngram_weight=settings.ngram_weight,
        tolerance=0.0,
        provenance={
            "checkpoint": checkpoint.name,
            "data": evidence.data,
            "versions": {name: version(name) for name in PACKAGES},
        },
        verified_on=this_machine(),
    )
    with Scorer.load(bundle, device="cpu") as scorer:
        found = compare(scorer, evidence.texts, evidence.reference, evidence.gold, evidence.unlabelled)
    return Trial(bundle, found, found.failures(limits))
