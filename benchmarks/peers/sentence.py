"""sentence-transformers with its ONNX backend.

Its CrossEncoder classifies only pairs of texts, so the classifier is built of its modules: the encoder in
onnxruntime, the first token's vector, and the pooler and the last layer as two ``Dense`` modules with their weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jirgee.machine import cpu_count, has_int8_dot
from jirgee.scorer import softmax

from ..cases import MAX_TOKENS, Case
from . import Variant

ABOUT = "SentenceTransformer(backend='onnx').encode, which sorts by length"
SOURCES = ("https://sbert.net/docs/sentence_transformer/usage/efficiency.html (ONNX O3, or qint8 for the processor)",)
NEEDS = ("sentence_transformers", "optimum.onnxruntime", "onnxruntime")
VARIANTS = {"fp32": Variant("ONNX, optimised (O3)"), "int8": Variant("ONNX, its dynamic qint8", "int8")}
THROUGHPUT = [{"batch_size": size} for size in (8, 32)]
LATENCY = [{"batch_size": 1}]


def prepare(case: Case, out: Path, variant: str) -> None:
    import torch
    from safetensors.torch import load_file
    from sentence_transformers import (
        SentenceTransformer,
        export_dynamic_quantized_onnx_model,
        export_optimized_onnx_model,
    )
    from sentence_transformers.models import Dense, Pooling, Transformer  # pyright: ignore[reportMissingImports]

    weights = load_file(case.checkpoint / "model.safetensors")
    encoder = Transformer(str(case.checkpoint), max_seq_length=MAX_TOKENS, backend="onnx")
    pooler = _dense(Dense, weights, "bert.pooler.dense", torch.nn.Tanh())
    head = _dense(Dense, weights, "classifier", torch.nn.Identity())
    pooling = Pooling(encoder.get_word_embedding_dimension(), "cls")
    model = SentenceTransformer(modules=[encoder, pooling, pooler, head], backend="onnx", device="cpu")
    model.save_pretrained(str(out / "model"))
    model = SentenceTransformer(str(out / "model"), backend="onnx", device="cpu")
    if variant == "fp32":
        export_optimized_onnx_model(model, "O3", str(out / "model"))
    else:
        kind = "avx512_vnni" if has_int8_dot() else "avx2"
        export_dynamic_quantized_onnx_model(model, kind, str(out / "model"))
    [stored] = [file for file in (out / "model").rglob("*.onnx") if file.name != "model.onnx"]
    (stored.parent / "model.onnx").unlink()
    stored.rename(stored.parent / f"{variant}.onnx")


def _dense(dense: Any, weights: dict[str, Any], name: str, activation: Any) -> Any:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return dense(weight.shape[1], weight.shape[0], activation_function=activation, init_weight=weight, init_bias=bias)


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(cpu_count())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    kwargs = {"file_name": f"{variant}.onnx", "session_options": options, "provider": "CPUExecutionProvider"}
    model = SentenceTransformer(str(out / "model"), backend="onnx", device="cpu", model_kwargs=kwargs)
    return model, settings["batch_size"]


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    model, batch_size = loaded
    return softmax(model.encode(texts, batch_size=batch_size, show_progress_bar=False))


def close(loaded: Any) -> None:
    pass
