"""jirgee: a bundle of each recipe that the export knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jirgee.layout import TOKEN_BUDGET, Layout
from jirgee.machine import cpu_count

from ..cases import Case
from . import Variant

ABOUT = "jirgee's bundle and Scorer, with their defaults"
SOURCES = ("docs/scoring.md", "docs/performance.md")
NEEDS = ("onnxruntime", "sentencepiece")
THROUGHPUT = [{}]
LATENCY = [{}, {"together": True}]  # all processors on one text, as the other engines' sessions do by default
BUNDLE = "bundle"


def _variants() -> dict[str, Variant]:
    """A row for each recipe of the export, without importing it: a worker's cold start is the bundle's alone."""
    from jirgee_export.cli import RECIPE_NAMES

    precisions = {"int8": "int8", "int4": "int4", "fp16": "fp16", "bf16": "bf16"}
    return {
        name: Variant(f"recipe {name}", precisions.get(name.partition("-")[0], "fp32"), first_token=True)
        for name in RECIPE_NAMES
        if name != "auto"
    }


VARIANTS = _variants()


def prepare(case: Case, out: Path, variant: str) -> None:
    from jirgee_export.build import build
    from jirgee_export.verify import Limits

    anything = Limits(100, 100, 1)  # random weights are nobody's loss; agreement is measured and told
    build(case.checkpoint, out / BUNDLE, variant, case.calibration, anything)


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    from jirgee import Scorer
    from jirgee.machine import return_big_blocks

    return_big_blocks()  # as the command does
    layout = Layout(1, cpu_count(), TOKEN_BUDGET["cpu"]) if settings.get("together") else None
    return Scorer.load(out / BUNDLE, device="cpu", cache_texts=0, layout=layout)  # remembered scores are no speed


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    return loaded.score(texts).probs


def close(loaded: Any) -> None:
    loaded.close()
