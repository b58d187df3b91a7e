"""PyTorch, eager: as mn-tweet-bert ran it, and as it is run with care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jirgee.machine import cpu_count, cpu_flags
from jirgee.scorer import softmax

from ..cases import Case
from . import Variant
from .batches import Batches

ABOUT = "transformers' BertForSequenceClassification in PyTorch"
SOURCES = (
    "https://github.com/tugstugi/mn-tweet-bert (naive: every text padded to 128 tokens, 8 in a batch)",
    "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html (inference mode, threads = cores)",
    "https://docs.pytorch.org/tutorials/intermediate/dynamic_quantization_bert_tutorial.html (int8)",
    "https://huggingface.co/docs/transformers/perf_infer_cpu (bf16 where the processor multiplies it)",
)
NEEDS = ("torch", "transformers")
VARIANTS = {
    "naive": Variant("the seed's way: padded to 128 tokens, batches of 8, order of the file", share=0.25),
    "sorted": Variant("sorted by length, fp32"),
    "bf16": Variant("sorted by length, bfloat16", "bf16"),
    "int8": Variant("sorted by length, dynamic quantisation of the linear layers", "int8"),
}
THROUGHPUT = [{"tokens": tokens} for tokens in (512, 1024, 2048)]
LATENCY = [{"tokens": 512}]
NAIVE_WIDTH, NAIVE_BATCH = 128, 8


def prepare(case: Case, out: Path, variant: str) -> None:
    (out / "checkpoint").symlink_to(case.checkpoint.resolve(), target_is_directory=True)


def load(case: Case, out: Path, variant: str, settings: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(cpu_count())
    if variant == "bf16" and not {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags():
        raise RuntimeError("this processor does not multiply bfloat16")
    dtype = torch.bfloat16 if variant == "bf16" else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(out / "checkpoint", dtype=dtype).eval()
    if variant == "int8":
        torch.backends.quantized.engine = "x86"
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    return model, Batches(case.checkpoint, settings["tokens"]), variant == "naive"


def score(loaded: Any, texts: list[str]) -> np.ndarray:
    import torch

    model, batches, naive = loaded
    logits = np.zeros((len(texts), model.config.num_labels), np.float32)
    with torch.inference_mode():
        for rows, ids, mask in _naive(batches, texts) if naive else batches.of(texts):
            output = model(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long())
            logits[rows] = output.logits.float().numpy()
    return softmax(logits)


def _naive(batches: Batches, texts: list[str]) -> Any:
    for start in range(0, len(texts), NAIVE_BATCH):
        encoded = batches.tokenizer.encode(texts[start : start + NAIVE_BATCH])
        rows = np.arange(len(encoded))
        yield start + rows, *encoded.padded(rows, NAIVE_WIDTH, batches.pad_id)


def close(loaded: Any) -> None:
    pass
