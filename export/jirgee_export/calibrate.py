"""What the activations of a graph look like on real texts, and a rewrite that makes them easier to quantise.

A few channels of a BERT's activations are ten times larger than the others, and one scale a tensor leaves little for
the rest. ``smooth`` divides each input channel of a matrix product by a factor and multiplies the matching row of the
weights by it: the same function, with the outliers moved into the weights, which have a scale a channel (SmoothQuant,
Xiao et al. 2023, arXiv:2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper

from jirgee.plan import plan
from jirgee.tokens import Encoded

from .products import products

TEXTS = 256  # enough: peaks grow slowly after the first hundred
TOKENS_A_BATCH = 512


@dataclass(frozen=True)
class Calibration:
    """Texts that stand for those to come. ``encoded``: their token ids. ``pad_id``: row of the padding."""

    encoded: Encoded
    pad_id: int

    def take(self, count: int) -> Calibration:
        """The first ``count`` texts (all, if there are fewer)."""
        offsets = self.encoded.offsets[: count + 1]
        part = Encoded(self.encoded.ids[: offsets[-1]], offsets, self.encoded.truncated[:count])
        return Calibration(part, self.pad_id)

    def logits(self, model: ModelProto) -> np.ndarray:
        """float32 [n, k]: the first output for each text."""
        found: list[np.ndarray] = []
        order: list[np.ndarray] = []
        for rows, _, values in self._run(model, [model.graph.output[0].name]):
            order.append(rows)
            found.append(values[0])
        result = np.concatenate(found)
        result[np.concatenate(order)] = result.copy()
        return result

    def peaks(self, model: ModelProto, names: list[str]) -> dict[str, np.ndarray]:
        """Largest absolute value of each channel (last axis) of the named tensors, float32 [channels] each."""
        found: dict[str, np.ndarray] = {}
        for name, tokens in self._tokens(model, names):
            peak: np.ndarray = np.abs(tokens).max(axis=0)
            found[name] = np.maximum(found.get(name, peak), peak)
        return found

    def rows(self, model: ModelProto, names: list[str]) -> dict[str, int]:
        """How many rows the named tensors have over all texts, padding not counted."""
        found: dict[str, int] = {}
        for name, tokens in self._tokens(model, names):
            found[name] = found.get(name, 0) + len(tokens)
        return found

    def ranges(self, model: ModelProto, names: list[str]) -> dict[str, tuple[float, float]]:
        """(lowest, highest) value of the named tensors. Cutting them to the least squared error was worse: the rare
        large values carry more of the meaning than their number tells.
        """
        found: dict[str, tuple[float, float]] = {}
        for name, tokens in self._tokens(model, names):
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(tokens.min())), max(high, float(tokens.max())))
        return found

    def _tokens(self, model: ModelProto, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """(name, float32 [rows, channels]) of each batch and tensor."""
        names = list(dict.fromkeys(names))
        for _, mask, values in self._run(model, names):
            for name, value in zip(names, values, strict=True):
                # the last layer has one row a text
                yield name, value[mask.astype(bool)] if value.ndim == 3 else value

    def _run(self, model: ModelProto, names: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """(rows, mask, values of the named tensors) of each batch."""
        watched = ModelProto()
        watched.CopyFrom(model)
        known = {value.name for value in model.graph.output}
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = {node.name for node in session.get_inputs()}
        for batch in plan(self.encoded.lengths, TOKENS_A_BATCH):
            ids, mask = self.encoded.padded(batch.rows, batch.width, self.pad_id)
            feed: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            values = session.run(names, {name: value for name, value in feed.items() if name in wanted})
            yield batch.rows, mask, [np.asarray(value, dtype=np.float32) for value in values]


class Source:
    """The fused fp32 graph that recipes start from, and what calibration makes of it, each made once."""

    def __init__(self, fused: ModelProto, calibration: Calibration):
        self.fused, self.calibration = fused, calibration
        self._peaks: dict[str, np.ndarray] | None = None
        self._smoothed: dict[float, ModelProto] = {0.0: fused}
        self._ranges: dict[float, dict[str, tuple[float, float]]] = {}

    def smoothed(self, strength: float) -> ModelProto:
        """The graph smoothed with ``strength``; 0 is the graph itself. Not to be changed."""
        if strength not in self._smoothed:
            if self._peaks is None:
                names = [product.tensor for product in products(self.fused)]
                self._peaks = self.calibration.peaks(self.fused, names)
            self._smoothed[strength] = smooth(self.fused, self._peaks, strength)
        return self._smoothed[strength]

    def ranges(self, strength: float) -> dict[str, tuple[float, float]]:
        """For each product's input in the graph smoothed with ``strength``: what a calibrated scale keeps."""
        if strength not in self._ranges:
            model = self.smoothed(strength)
            self._ranges[strength] = self.calibration.ranges(model, [p.tensor for p in products(model)])
        return self._ranges[strength]


def smooth(model: ModelProto, peaks: dict[str, np.ndarray], strength: float) -> ModelProto:
    """``model`` with every product of activations and constant weights smoothed. The same function up to rounding.

    ``peaks``: of each product's input (``Calibration.peaks``). ``strength``: alpha of the paper; 0 leaves activations
    alone, 1 makes their channels equal.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    found = {product.node for product in products(model)}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in found:
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
