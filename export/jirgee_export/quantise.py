"""How the weights of a bundle are stored: one row of ``RECIPES`` each, with the CPUs it is safe on.

8-bit recipes quantise weights once and activations at run time (``quantize_dynamic``): per tensor and batch, so a
text's score depends a little on its batch-mates; the bundle states how much. On a CPU without 8-bit dot products
(VNNI, AMX, ARM dotprod) onnxruntime adds pairs of products in 16 bits, which saturate unless weights keep to 7 bits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

QUANTISED_OPERATORS = ["MatMul", "Attention", "EmbedLayerNormalization"]


@dataclass(frozen=True)
class Recipe:
    """``apply``: fused fp32 graph -> the graph as stored. ``safe_on``: ``any`` CPU or only those with ``int8_dot``.
    ``smoothed``: ``apply`` wants the graph that ``calibrate.smooth`` has prepared.
    """

    about: str
    apply: Callable[[ModelProto], ModelProto]
    smoothed: bool = False
    safe_on: str = "any"


def _dynamic_int8(model: ModelProto, keep_float: Callable[[NodeProto], bool] = lambda node: False) -> ModelProto:
    """Signed 7-bit weights, a scale per output channel. ``keep_float``: nodes to leave as they are.

    The head (Gemm) always stays float: it is 1 % of the work and quantising it triples the change of the scores.
    """
    excluded = [node.name for node in model.graph.node if keep_float(node)]
    # quantize_dynamic renames a Gemm before it looks at the names to exclude.
    excluded += [f"{node.name}_MatMul" for node in model.graph.node if node.op_type == "Gemm"]
    with tempfile.TemporaryDirectory() as directory, _quiet():
        source, target = Path(directory) / "float.onnx", Path(directory) / "int8.onnx"
        onnx.save(model, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=QUANTISED_OPERATORS,
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # A fused graph has tensors whose type onnx cannot infer; all of them are float.
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
        return onnx.load(target)


@contextmanager
def _quiet() -> Iterator[None]:
    """quantize_dynamic advises on the root logger to run a preprocessing that does not know fused operators."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _reads_gelu(model: ModelProto) -> Callable[[NodeProto], bool]:
    """Whether a node's input is a GELU's output: the activations with the longest tail, the costliest to quantise."""
    outputs: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("BiasGelu", "Gelu", "FastGelu") or (node.op_type == "Mul" and node.input[0] in outputs):
            outputs.add(node.output[0])  # Mul: what calibrate.smooth puts between
    return lambda node: node.op_type == "MatMul" and node.input[0] in outputs


# From the fastest to the most faithful: ``auto`` takes the first that passes the gate.
RECIPES: dict[str, Recipe] = {
    "int8": Recipe(
        "7-bit weights in 8, a scale per channel; activations smoothed, and quantised at run time", _dynamic_int8, True
    ),
    "int8-mixed": Recipe(
        "as int8, with the second half of every feed-forward block in float",
        lambda model: _dynamic_int8(model, _reads_gelu(model)),
        smoothed=True,
    ),
    "fp32": Recipe("32-bit floats", lambda model: model),
}
