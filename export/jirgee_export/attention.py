"""``--with-attention``: the stored graph -> a small second graph that gives what every attention head looks at.

The fused operators hide their probabilities, so beside each of them the scores are computed once more from the same
input and weights: softmax(Q K^T / sqrt(width of a head)) (Vaswani et al. 2017, arXiv:1706.03762). What comes out is the
attention of the bundle itself, quantised as it is. No weight is stored twice: the big tensors are external data whose
place is inside ``model.onnx``.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from jirgee.bundle import MODEL
from jirgee.errors import GateError

from .first_token import FIRST_TOKEN_QUERY, FIRST_TOKEN_SCORES, constants
from .optimise import prune
from .products import MICROSOFT

HEADS = ("num_heads", "q_num_heads")
INSIDE = 1024  # bytes of a tensor from which on it is pointed to


def attention_graph(stored: bytes, layers: int) -> bytes:
    """``stored``: the bytes of ``model.onnx``. The result gives ``attention`` float32 [layers, heads, w, w] of one text
    without padding, from the same inputs. Raises GateError unless all ``layers`` have an attention that is understood.
    """
    model = onnx.load_from_string(stored)
    graph = model.graph
    nodes = [node for node in graph.node if _kind(node) in _QUERIES or node.name.endswith(FIRST_TOKEN_QUERY)]
    if len(nodes) != layers:
        raise GateError(f"--with-attention: the graph has {len(nodes)} attention operators for {layers} layers")
    shapes = {name: array.shape for name, array in constants(model).items()}
    made, outputs = [], []
    for layer, node in enumerate(nodes):
        more, output = _probabilities(model, node, f"attention_{layer}", shapes)
        made += more
        outputs.append(output)
    graph.node.extend(made)
    graph.node.append(helper.make_node("Concat", outputs, ["attention"], axis=0))
    del graph.output[:]
    given = [a.i for a in nodes[0].attribute if a.name in HEADS]
    heads = given[0] if given else "heads"
    graph.output.append(helper.make_tensor_value_info("attention", TensorProto.FLOAT, [layers, heads, "w", "w"]))
    del graph.value_info[:]
    _drop_unread(model)
    prune(model)
    for tensor in graph.initializer:
        _point_into(stored, tensor)
    return model.SerializeToString()


def _probabilities(
    model: ModelProto, node: NodeProto, name: str, shapes: dict[str, tuple[int, ...]]
) -> tuple[list[NodeProto], str]:
    """Nodes that compute the probabilities [1, heads, w, w] of an attention, and the output's name."""
    made: list[NodeProto] = []

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{name}_{len(made)}"
        made.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    if _kind(node) not in _QUERIES:
        query, key = _first_token(model, node, shapes, add)
        return made, add("Softmax", add("MatMul", query, key), axis=-1)
    query, key, width = _QUERIES[_kind(node)](node, shapes, add)
    given = {attribute.name: attribute for attribute in node.attribute}
    heads = next(given[name].i for name in HEADS if name in given)
    scale = given["scale"].f if "scale" in given and given["scale"].f else (width // heads) ** -0.5
    shape = add("Constant", value=_numbers("", [0, -1, heads, width // heads]))
    query, key = (add("Reshape", part, shape) for part in (query, key))
    query = add("Transpose", query, perm=[0, 2, 1, 3])
    key = add("Transpose", key, perm=[0, 2, 3, 1])
    factor = add("Constant", value=helper.make_tensor("", TensorProto.FLOAT, [], [scale]))
    logits = add("Mul", add("Cast", add("MatMul", query, key), to=TensorProto.FLOAT), factor)
    return made, add("Softmax", logits, axis=-1)


def _packed(node: NodeProto, shapes: dict[str, tuple[int, ...]], add, hidden: str, weight: str) -> tuple[str, str, int]:
    projected = add("Add", add("MatMul", hidden, weight), node.input[2])
    width = shapes[node.input[1]][1] // 3
    bounds = [add("Constant", value=_numbers("", [number])) for number in (0, width, 2 * width)]
    axis = add("Constant", value=_numbers("", [2]))
    query, key = (add("Slice", projected, *bounds[part : part + 2], axis) for part in (0, 1))
    return query, key, width


def _kind(node: NodeProto) -> tuple[str, str]:
    return node.domain, node.op_type


def _plain(node: NodeProto, shapes: dict[str, tuple[int, ...]], add) -> tuple[str, str, int]:
    return _packed(node, shapes, add, node.input[0], node.input[1])


def _quantised(node: NodeProto, shapes: dict[str, tuple[int, ...]], add) -> tuple[str, str, int]:
    """QAttention: input, weight, bias, their scales, mask, their zero points."""
    hidden = add("DequantizeLinear", node.input[0], node.input[3], node.input[6])
    weight = add("DequantizeLinear", node.input[1], node.input[4], node.input[7], axis=1)
    return _packed(node, shapes, add, hidden, weight)


def _split(node: NodeProto, shapes: dict[str, tuple[int, ...]], add) -> tuple[str, str, int]:
    """Query, key and value, each by a product of its own; MultiHeadAttention may have to add their biases itself."""
    if node.op_type == "MultiHeadAttention" and node.input[3]:
        width = shapes[node.input[3]][0] // 3
        bounds = [add("Constant", value=_numbers("", [number])) for number in (0, width, 2 * width)]
        parts = [add("Slice", node.input[3], *bounds[part : part + 2]) for part in (0, 1)]
        query, key = (add("Add", given, part) for given, part in zip(node.input[:2], parts, strict=True))
        return query, key, width
    query = node.input[0]
    bias = f"{query}_by"  # where ``standard_attention`` has it added
    return query, node.input[1], shapes[bias][0] if bias in shapes else shapes[f"{query}_weight"][1]


def _first_token(model: ModelProto, asked: NodeProto, shapes: dict[str, tuple[int, ...]], add) -> tuple[str, str]:
    """The last layer as ``first_token`` leaves it, but with every token's query: [1, heads, w, size] and its keys."""
    prefix = asked.name.removesuffix(FIRST_TOKEN_QUERY)
    tokens = next(node.input[1] for node in model.graph.node if node.name == f"{prefix}{FIRST_TOKEN_SCORES}")
    heads, size, _ = shapes[f"{prefix}_key"]
    query = add("Add", add("MatMul", tokens, f"{prefix}_query"), f"{prefix}_query_bias")
    query = add("Reshape", query, add("Constant", value=_numbers("", [0, -1, heads, size])))
    query = add("Transpose", query, perm=[0, 2, 1, 3])
    one = add("Constant", value=_numbers("", [1]))
    looked_for = add("MatMul", query, f"{prefix}_key")  # [1, heads, w, width]
    return looked_for, add("Transpose", add("Unsqueeze", tokens, one), perm=[0, 1, 3, 2])


# (domain, operator) -> its queries and keys, [1, w, width] each, and the width
_QUERIES = {
    (MICROSOFT, "Attention"): _plain,
    (MICROSOFT, "QAttention"): _quantised,
    (MICROSOFT, "MultiHeadAttention"): _split,
    ("", "Attention"): _split,
}


def _numbers(name: str, values: list[int]) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def _drop_unread(model: ModelProto) -> None:
    """Leave only the nodes and inputs that the outputs need."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    for value in list(model.graph.input):
        if value.name not in needed:
            model.graph.input.remove(value)


def _point_into(stored: bytes, tensor: TensorProto) -> None:
    """Replace a big tensor's bytes by their place in ``stored``."""
    if not tensor.raw_data:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    if len(tensor.raw_data) < INSIDE:
        return
    place, length = stored.find(tensor.raw_data), len(tensor.raw_data)
    if place < 0:
        return
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", MODEL), ("offset", place), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
