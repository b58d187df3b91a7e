"""A checkpoint directory -> an ONNX graph with dynamic batch and length, by optimum's exporter.

Attention is exported in its eager form, because that is the form onnxruntime's optimiser recognises.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from jirgee.errors import InputError

OPSET = 17


def load_model(checkpoint: Path) -> PreTrainedModel:
    """The checkpoint in fp32 with eager attention. Raises InputError if it is not a whole classification model."""
    if not (checkpoint / "config.json").is_file():
        raise InputError(
            "is not a checkpoint: it has no config.json; make one with: jirgee train DATA -o CHECKPOINT",
            checkpoint,
        )
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot be loaded as a model: {str(error).splitlines()[0]}", checkpoint) from None
    if info["missing_keys"]:
        raise InputError(
            f"has no weights for {sorted(info['missing_keys'])[0]}: it is a base, not a fine-tuned classifier; "
            f"train it first: jirgee train DATA --base {checkpoint} -o CHECKPOINT",
            checkpoint,
        )
    return model.eval()


def export_graph(model: PreTrainedModel, out: Path) -> None:
    """Write ``model`` to the file ``out`` as ONNX: token ids [n, width] -> logits [n, k], both axes dynamic."""
    try:
        make_config = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model=model, task="text-classification", library_name="transformers"
        )
    except (KeyError, ValueError):
        raise InputError(f"the architecture {model.config.model_type!r} has no ONNX exporter in optimum") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracer warnings about shapes: every check of verify.py covers them
        export(model, make_config(model.config), out, opset=OPSET)  # pyright: ignore[reportArgumentType]
