"""What the activations of a graph look like on real texts, and a rewrite that makes them easier to quantise.

A few channels of a BERT's activations are ten times larger than the others, and one scale a tensor leaves little for
the rest. ``smooth`` divides each input channel of a matrix product by a factor and multiplies the matching row of the
weights by it: the same function, with the outliers moved into the weights, which have a scale a channel (SmoothQuant,
Xiao et al. 2023, arXiv:2211.10438).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper

from jirgee.plan import plan
from jirgee.tokens import Encoded

STRENGTH = 0.8  # alpha of the paper: 0 leaves activations alone, 1 makes their channels equal
SMOOTHED = ("MatMul", "Attention")
TEXTS = 256  # enough: peaks grow slowly after the first hundred
TOKENS_A_BATCH = 512


@dataclass(frozen=True)
class Calibration:
    """Texts that stand for those to come. ``encoded``: their token ids. ``pad_id``: row of the padding."""

    encoded: Encoded
    pad_id: int

    def peaks(self, model: ModelProto, names: list[str]) -> dict[str, np.ndarray]:
        """Largest absolute value of each channel (last axis) of the named tensors, float32 [channels] each."""
        watched = ModelProto()
        watched.CopyFrom(model)
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
        wanted = {node.name for node in session.get_inputs()}
        found: dict[str, np.ndarray] = {}
        for batch in plan(self.encoded.lengths, TOKENS_A_BATCH):
            ids, mask = self.encoded.padded(batch.rows, batch.width, self.pad_id)
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            values = session.run(names, {name: value for name, value in feed.items() if name in wanted})
            for name, given in zip(names, values, strict=True):
                value = np.asarray(given, dtype=np.float32)
                tokens = value[mask.astype(bool)] if value.ndim == 3 else value  # the last layer has one row a text
                peak: np.ndarray = np.abs(tokens).max(axis=0)
                found[name] = np.maximum(found.get(name, peak), peak)
        return found


def smooth(model: ModelProto, calibration: Calibration, strength: float = STRENGTH) -> ModelProto:
    """``model`` with every product of activations and constant weights smoothed. The same function up to rounding."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in SMOOTHED and node.input[1] in weights]
    peaks = calibration.peaks(model, list(dict.fromkeys(node.input[0] for node in products)))
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.input and node.input[0] in peaks and node.op_type in SMOOTHED and node.input[1] in weights:
            table = weights[node.input[1]]
            matrix = numpy_helper.to_array(table)
            activation = np.maximum(peaks[node.input[0]], 1e-3)
            weight = np.maximum(np.abs(matrix).max(axis=1), 1e-5)
            factor = activation**strength / weight ** (1 - strength)
            factor = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
            table.CopyFrom(numpy_helper.from_array(matrix * factor[:, None], table.name))
            divisor = numpy_helper.from_array(1 / factor, f"{node.name}_smooth_factor")
            graph.initializer.append(divisor)
            smoothed = f"{node.input[0]}_for_{node.name}"
            nodes.append(helper.make_node("Mul", [node.input[0], divisor.name], [smoothed], f"{node.name}_smooth"))
            node.input[0] = smoothed
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return result
