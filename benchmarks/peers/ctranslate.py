"""CTranslate2's encoder, with the classifier's head in numpy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.machine import cpu_count
from jirgee.scorer import softmax

from ..cases import Case
from . import Variant
from .batches import Batches

ABOUT = "ctranslate2.Encoder; its converter keeps encoder and pooler, the last linear layer is one numpy product"
SOURCES = (
    "https://opennmt.net/CTranslate2/guides/transformers.html#bert (encoder, pooler_output, own head)",
    "https://opennmt.net/CTranslate2/performance.html (sort by length, batch by tokens, int8 on CPU)",
    "https://opennmt.net/CTranslate2/parallel.html (inter_threads workers of intra_threads each, batches at once)",
    "https://opennmt.net/CTranslate2/environment_variables.html (CT2_USE_MKL, which AMD does not get by default)",
)
NEEDS = ("ctranslate2",)
VARIANTS = {"fp32": Variant("float32"), "int8": Variant("int8", "int8")}
_MKL = {"CT2_USE_MKL": "1"}
THROUGHPUT = [
    {"parallel": parallel, "tokens": tokens, "env": env}
    for env in ({}, _MKL)
    for parallel in (True, False)
    for tokens in (512, 1024)
]
LATENCY = [{"parallel": False, "tokens": 512, "env": env} for env in ({}, _MKL)]


def prepare(case: Case, out: Path, variant: str) -> None:
    from ctranslate2.converters import TransformersConverter
    from safetensors.numpy import load_file

    quantisation = "int8" if variant == "int8" else None
    TransformersConverter(str(case.checkpoint)).convert(str(out / "model"), quantization=quantisation)
    Batches.save(case.checkpoint, out)
    weights = load_file(case.checkpoint / "model.safetensors")
    np.savez(out / "head.npz", weight=weights["classifier.weight"], bias=weights["classifier.bias"])


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    import ctranslate2

    workers = cpu_count() if settings["parallel"] else 1
    encoder = ctranslate2.Encoder(
        str(out / "model"),
        device="cpu",
        inter_threads=workers,
        intra_threads=cpu_count() // workers,
        compute_type="int8" if variant == "int8" else "float32",
    )
    head = np.load(out / "head.npz")
    pool = ThreadPoolExecutor(workers) if workers > 1 else None
    return encoder, Batches(out, settings["tokens"]), head["weight"].T, head["bias"], pool


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    import ctranslate2

    encoder, batches, weight, bias, pool = loaded

    def run(batch: Any) -> tuple[np.ndarray, np.ndarray]:
        rows, ids, mask = batch
        lengths = mask.sum(axis=1, dtype=np.int32)
        output = encoder.forward_batch(
            ctranslate2.StorageView.from_array(ids), ctranslate2.StorageView.from_array(lengths)
        )
        return rows, np.array(output.pooler_output) @ weight + bias

    logits = np.zeros((len(texts), len(bias)), np.float32)
    for rows, values in (pool.map if pool else map)(run, batches.of(texts)):
        logits[rows] = values
    return softmax(logits)


def close(loaded: Any) -> None:
    if loaded[-1]:
        loaded[-1].shutdown()
