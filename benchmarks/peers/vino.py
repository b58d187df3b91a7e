"""OpenVINO: converted from PyTorch, quantised by nncf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jirgee.machine import cpu_count
from jirgee.scorer import softmax

from ..cases import Case
from . import Variant
from .batches import Batches

ABOUT = "openvino's CompiledModel, asynchronous requests for throughput"
SOURCES = (
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/"
    "high-level-performance-hints.html (THROUGHPUT with AsyncInferQueue, LATENCY for one request)",
    "https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training/"
    "basic-quantization-flow.html (nncf.quantize, model_type TRANSFORMER, 300 samples)",
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/precision-control.html",
)
NEEDS = ("openvino", "nncf", "torch", "transformers")
VARIANTS = {
    "fp32": Variant("inference precision f32"),
    "bf16": Variant("inference precision bf16, the default where the processor has it", "bf16"),
    "int8": Variant("nncf.quantize, static", "int8"),
}
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # int8: what the device takes by default for the rest of the graph
THROUGHPUT = [{"hint": hint, "tokens": tokens} for hint in ("THROUGHPUT", "LATENCY") for tokens in (512, 1024)]
LATENCY = [{"hint": "LATENCY", "tokens": 512}]


def prepare(case: Case, out: Path, variant: str) -> None:
    import nncf
    import openvino
    import torch
    from transformers import AutoModelForSequenceClassification

    from ..build_case import read_texts

    class Logits(torch.nn.Module):
        """The classifier without segments, which are all 0."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(case.checkpoint).eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    batches = Batches(case.checkpoint, 1)  # one text a batch, as nncf wants its samples
    samples = [
        {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}
        for _, ids, mask in batches.of(read_texts(case.calibration))
    ]
    example = {name: torch.from_numpy(value) for name, value in samples[len(samples) // 2].items()}
    shape = openvino.PartialShape([-1, -1])
    model = openvino.convert_model(Logits(), example_input=example, input=[shape, shape])
    if variant == "int8":
        model = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER)
    Batches.save(case.checkpoint, out)
    openvino.save_model(model, out / "model.xml", compress_to_fp16=False)


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    import openvino

    core = openvino.Core()
    if variant == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("this processor does not multiply bfloat16")
    config = {"PERFORMANCE_HINT": settings["hint"], "INFERENCE_NUM_THREADS": cpu_count()}
    if variant in PRECISIONS:
        config["INFERENCE_PRECISION_HINT"] = PRECISIONS[variant]
    compiled = core.compile_model(out / "model.xml", "CPU", config)
    return openvino.AsyncInferQueue(compiled), Batches(out, settings["tokens"]), compiled


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    queue, batches, compiled = loaded
    logits = np.zeros((len(texts), compiled.output(0).partial_shape[1].get_length()), np.float32)

    def keep(request: Any, rows: np.ndarray) -> None:
        logits[rows] = request.get_output_tensor(0).data

    queue.set_callback(keep)
    for rows, ids, mask in batches.of(texts):
        queue.start_async([ids.astype(np.int64), mask.astype(np.int64)], rows)
    queue.wait_all()
    return softmax(logits)


def close(loaded: Any) -> None:
    pass
