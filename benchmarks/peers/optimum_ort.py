"""optimum's onnxruntime pipeline: exported, optimised and quantised by optimum itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jirgee.machine import cpu_count, has_int8_dot

from ..cases import Case
from . import Variant
from .pipeline import close, score

ABOUT = "optimum.onnxruntime's pipeline('text-classification')"
SOURCES = (
    "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/pipelines",
    "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/optimization (level 2: fused, exact)",
    "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization (dynamic, avx512_vnni or avx2)",
)
NEEDS = ("optimum.onnxruntime", "onnxruntime", "transformers")
VARIANTS = {"fp32": Variant("optimised (level 2), fp32"), "int8": Variant("dynamic 8-bit quantisation", "int8")}
THROUGHPUT = [{"batch_size": size} for size in (1, 8, 32)]
LATENCY = [{"batch_size": 1}]


def prepare(case: Case, out: Path, variant: str) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig, OptimizationConfig
    from transformers import AutoTokenizer

    plain, model = out.with_name(f"{out.name}.plain"), out / "model"
    exported = ORTModelForSequenceClassification.from_pretrained(case.checkpoint, export=True)
    exported.save_pretrained(plain)
    if variant == "fp32":
        ORTOptimizer.from_pretrained(exported).optimize(OptimizationConfig(optimization_level=2), save_dir=model)
    else:
        kind = AutoQuantizationConfig.avx512_vnni if has_int8_dot() else AutoQuantizationConfig.avx2
        ORTQuantizer.from_pretrained(plain).quantize(save_dir=model, quantization_config=kind(False, per_channel=True))
    AutoTokenizer.from_pretrained(case.checkpoint).save_pretrained(model)
    shutil.rmtree(plain)


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification, pipeline
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    options.log_severity_level = 3
    file = "model_optimized.onnx" if variant == "fp32" else "model_quantized.onnx"
    model = ORTModelForSequenceClassification.from_pretrained(out / "model", file_name=file, session_options=options)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    return pipeline("text-classification", model, tokenizer=tokenizer, top_k=None), settings["batch_size"]


__all__ = ["close", "score"]  # it is called as transformers' own is
