"""The matrix products of a fused graph, and the ways in which onnxruntime's CPU can compute one in few bits.

A product is a MatMul with constant weights, or the one inside an Attention (queries, keys and values at once). ``Form``
says how its weights are stored and how its activations are rounded; ``rewrite`` puts each product of a graph into the
form that it is given and leaves the others in float. All arithmetic on the stored weights is onnxruntime's.

    activations   scale                     of the same text with other batch-mates
    batch         one a tensor, at run time differs: the loudest token of the batch sets it
    token         one a token, at run time  equal
    static        one a tensor, calibrated  equal; what is louder than the calibration texts is clipped
    block         one for 128 (or 32) neighbouring channels of a token: MatMulNBits
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
LEVELS = {"int7": 64, "int8": 127, "uint8": 127, "block8": 127, "block4": 7}  # largest step from the middle
BLOCK = {"block8": 128, "block4": 32}
INT8_COMPUTE = 4  # MatMulNBits' accuracy_level: activations are rounded to 8 bits, block by block


@dataclass(frozen=True)
class Form:
    """``weights``: a key of LEVELS, with a scale per output channel (per block for ``block8`` and ``block4``).
    ``activations``: ``batch``, ``token``, ``static`` or ``block``.
    """

    weights: str
    activations: str


@dataclass(frozen=True)
class Product:
    """``node`` multiplies ``tensor`` [n, width, inputs] by the initializer ``weights`` [inputs, outputs]. ``work``:
    multiplications a token.
    """

    node: str
    kind: str
    tensor: str
    weights: str
    work: int

    @property
    def about(self) -> str:
        return self.node.strip("/").replace("bert/encoder/", "")


def products(model: ModelProto) -> list[Product]:
    """Every product with constant weights, in the graph's order."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return [
        Product(node.name, node.op_type, node.input[0], node.input[1], int(np.prod(shapes[node.input[1]])))
        for node in model.graph.node
        if node.op_type in ("MatMul", "Attention") and len(shapes.get(node.input[1], ())) == 2
    ]


def rewrite(
    model: ModelProto, forms: Mapping[str, Form], ranges: Mapping[str, tuple[float, float]] | None = None
) -> ModelProto:
    """A new graph in which each product named in ``forms`` (node name -> Form) is computed in its form.

    ``ranges``: tensor -> (lowest, highest) value to keep, for ``static`` ones. Raises KeyError for a product that is
    not there or has no range.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    writer = _Writer({tensor.name: tensor for tensor in graph.initializer}, ranges or {})
    found = {product.node: product for product in products(model)}
    for name in forms:
        found[name]  # a KeyError names it
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in found and node.name in forms:
            nodes += writer.put(node, forms[node.name])
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.added.values())
    drop_unused(result)
    return result


def drop_unused(model: ModelProto) -> None:
    """Drop initializers that no node reads, and shapes that may no longer be so."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    del model.graph.value_info[:]


class _Writer:
    """Turns one product after another into nodes; tensors quantised once are shared."""

    def __init__(self, tables: Mapping[str, TensorProto], ranges: Mapping[str, tuple[float, float]]):
        self._tables, self._ranges = tables, ranges
        self.added: dict[str, TensorProto] = {}

    def put(self, node: NodeProto, form: Form) -> list[NodeProto]:
        weights = numpy_helper.to_array(self._tables[node.input[1]])
        if node.op_type == "MatMul":
            return self._product(node.name, form, node.input[0], weights, node.output[0])
        if form.activations in ("batch", "static"):
            return self._quantised_attention(node, form, weights)
        return self._attention_over_products(node, form, weights)

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.added[name] = numpy_helper.from_array(value, name)
        return name

    def _product(self, name: str, form: Form, x: str, weights: np.ndarray, out: str) -> list[NodeProto]:
        if form.activations == "block":
            return [self._blocks(name, form, x, weights, out)]
        table = self._weights(name, form, weights)
        if form.activations == "batch":
            return [_node("DynamicQuantizeMatMul", [x, *table], [out], f"{name}_batch")]
        if form.activations == "static":
            nodes, quantised = self._static(name, x)
            return [*nodes, self._integer(name, quantised, table, out)]
        nodes, quantised, loudest = self._token(name, x)
        return [*nodes, *self._scaled(name, quantised, table, loudest, out)]

    def _integer(self, name: str, quantised: tuple[str, str, str], table: tuple[str, str, str], out: str) -> NodeProto:
        x, scale, zero = quantised
        weights, weight_scale, weight_zero = table
        given = [x, weights, scale, weight_scale, zero, weight_zero]
        return _node("MatMulIntegerToFloat", given, [out], f"{name}_integer")

    def _scaled(
        self, name: str, quantised: tuple[str, str, str], table: tuple[str, str, str], loudest: str, out: str
    ) -> list[NodeProto]:
        relative = f"{name}_relative"
        return [
            self._integer(name, quantised, table, relative),
            helper.make_node("Mul", [relative, loudest], [out], f"{name}_scaled"),
        ]

    def _static(self, name: str, x: str) -> tuple[list[NodeProto], tuple[str, str, str]]:
        step, middle = steps_of(*self._ranges[x])
        scale = self._constant(f"{name}_x_scale", np.array(step, np.float32))
        zero = self._constant(f"{name}_x_zero", np.array(middle, np.uint8))
        out = f"{name}_x"
        return [helper.make_node("QuantizeLinear", [x, scale, zero], [out], f"{name}_quantise")], (out, scale, zero)

    def _token(self, name: str, x: str) -> tuple[list[NodeProto], tuple[str, str, str], str]:
        """Each token divided by its largest absolute value and rounded to 127 steps either way."""
        scale = self._constant("token_scale", np.array(1 / 127, np.float32))
        zero = self._constant("token_zero", np.array(128, np.uint8))
        tiny = self._constant("token_tiny", np.array(1e-12, np.float32))
        size, peak, loudest, relative, out = (f"{name}_{part}" for part in ("abs", "peak", "loudest", "unit", "x"))
        nodes = [
            helper.make_node("Abs", [x], [size], size),
            helper.make_node("ReduceMax", [size], [peak], peak, axes=[-1], keepdims=1),
            helper.make_node("Max", [peak, tiny], [loudest], loudest),  # of zeros alone: do not divide by 0
            helper.make_node("Div", [x, loudest], [relative], relative),
            helper.make_node("QuantizeLinear", [relative, scale, zero], [out], f"{name}_quantise"),
        ]
        return nodes, (out, scale, zero), loudest

    def _weights(self, name: str, form: Form, weights: np.ndarray) -> tuple[str, str, str]:
        steps, scale = rounded(weights, LEVELS[form.weights])
        unsigned = form.weights == "uint8"
        stored = (steps + 128).astype(np.uint8) if unsigned else steps.astype(np.int8)
        zero = self._constant(f"{name}_zero", np.full(len(scale), 128, np.uint8)) if unsigned else ""  # a pass less
        return self._constant(f"{name}_weights", stored), self._constant(f"{name}_scale", scale), zero

    def _blocks(self, name: str, form: Form, x: str, weights: np.ndarray, out: str) -> NodeProto:
        inputs, outputs = weights.shape
        bits, block = int(form.weights.removeprefix("block")), BLOCK[form.weights]
        stored, scale = blocked(weights.T, bits, block)
        given = [x, self._constant(f"{name}_weights", stored), self._constant(f"{name}_scale", scale.reshape(-1))]
        sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block}
        return _node("MatMulNBits", given, [out], f"{name}_blocks", accuracy_level=INT8_COMPUTE, **sizes)

    def _quantised_attention(self, node: NodeProto, form: Form, weights: np.ndarray) -> list[NodeProto]:
        table, scale, zero = self._weights(node.name, form, weights)
        x, bias, mask = node.input[0], node.input[2], node.input[3] if len(node.input) > 3 else ""
        if form.activations == "static":
            nodes, (quantised, x_scale, x_zero) = self._static(node.name, x)
        else:
            quantised, x_scale, x_zero = (f"{node.name}_{part}" for part in ("x", "x_scale", "x_zero"))
            outputs = [quantised, x_scale, x_zero]
            nodes = [helper.make_node("DynamicQuantizeLinear", [x], outputs, f"{node.name}_quantise")]
        given = [quantised, table, bias, x_scale, scale, mask, x_zero, zero]
        attention = _node("QAttention", given, list(node.output), f"{node.name}_quantised")
        attention.attribute.extend(a for a in node.attribute if a.name in ("num_heads", "mask_filter_value"))
        return [*nodes, attention]

    def _attention_over_products(self, node: NodeProto, form: Form, weights: np.ndarray) -> list[NodeProto]:
        """Queries, keys and values as products of their own, then the attention over them in float."""
        x, bias, mask = node.input[0], node.input[2], node.input[3] if len(node.input) > 3 else ""
        parts = [f"{node.name}_{part}" for part in ("query", "key", "value")]
        columns = np.split(weights, 3, axis=1)
        nodes: list[NodeProto] = []
        if form.activations == "block":
            nodes += [self._blocks(part, form, x, w, part) for part, w in zip(parts, columns, strict=True)]
        else:
            nodes, quantised, loudest = self._token(node.name, x)
            for part, w in zip(parts, columns, strict=True):
                nodes += self._scaled(part, quantised, self._weights(part, form, w), loudest, part)
        attention = _node("MultiHeadAttention", [*parts, bias, mask], list(node.output), f"{node.name}_heads")
        attention.attribute.extend(a for a in node.attribute if a.name in ("num_heads", "mask_filter_value"))
        return [*nodes, attention]


def _node(operator: str, inputs: Iterable[str], outputs: list[str], name: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, list(inputs), outputs, name, domain=MICROSOFT, **attributes)


def steps_of(low: float, high: float) -> tuple[float, int]:
    """Width of each of the 255 steps that hold ``low`` to ``high``, and the number of the step that stands for 0."""
    low, high = min(low, 0.0), max(high, 0.0)  # 0 must be exact: it is what padding and dropped units are
    step = max(high - low, 1e-8) / 255
    return step, round(-low / step)


def rounded(weights: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """``weights`` [inputs, outputs] -> whole steps -levels..levels of that shape, and a scale float32 [outputs]."""
    scale = np.maximum(np.abs(weights).max(axis=0), 1e-12) / levels
    return np.rint(weights / scale), scale.astype(np.float32)


def blocked(rows: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """``rows`` float [n, inputs] -> uint8 [n, blocks, block * bits / 8] and a scale float32 [n, blocks], as MatMulNBits
    and GatherBlockQuantized read them: the middle step stands for 0; in 4 bits the earlier value is the lower half.
    The last block is filled up with zeros.
    """
    n, inputs = rows.shape
    if spare := -inputs % block:
        rows = np.pad(rows, ((0, 0), (0, spare)))
        inputs += spare
    middle = 1 << (bits - 1)
    parts = rows.reshape(n, inputs // block, block)
    scale = np.maximum(np.abs(parts).max(axis=2), 1e-12) / (middle - 1)
    steps = (np.rint(parts / scale[:, :, None]) + middle).astype(np.uint8)
    if bits == 4:
        steps = steps[:, :, ::2] | (steps[:, :, 1::2] << 4)
    return steps, scale.astype(np.float32)
