"""The last layer, computed for the first token only. Exact for heads that read nothing else.

Behind the last attention only the first row of each text goes on. Within it there is one query a text, so that keys
and values need not be made for every token either: with q the query of a head, q · (x Wk) = (q Wkᵀ) · x, and the
weighted mean of the values is the weighted mean of the x, times Wv. Both products then cost a text what they cost a
token before. They stay float: what they were worth in 8 bits is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

FIRST_TOKEN_QUERY, FIRST_TOKEN_SCORES = "_asked_node", "_scores_node"  # how the names of these two nodes end
MASKED = -1e9  # added to the score of padding; its softmax is 0


def cut_last_layer(model: ModelProto, one_query: bool = True) -> bool:
    """Rewrite everything behind the second last layer for the first token. False (and no change) if the head reads
    more than that.

    ``one_query``: the attention too. Its products of a single query are summed in an order that depends on the shape
    of the batch; without it, the fused attention stays, and the cut is made behind it.
    """
    graph = model.graph
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    attention = [node for node in graph.node if node.op_type == "Attention"][-1]
    last_norm = [node for node in graph.node if node.op_type == "SkipLayerNormalization"][-1]
    readers = users.get(last_norm.output[0], [])
    if len(readers) != 1 or not takes_first_token(model, readers[0]):
        return False
    pick = readers[0]
    attended, residual = attention.output[0], attention.input[0]
    first_norm = next(node for node in users[residual] if node.op_type == "SkipLayerNormalization")

    first = f"{residual}_first"
    cut = [helper.make_node("Gather", [residual, pick.input[1]], [first], f"{attention.name}_first", axis=1)]
    if one_query:
        cut += _attention_of_one(model, attention, first, f"{attended}_first")
    else:
        taken = helper.make_node(
            "Gather", [attended, pick.input[1]], [f"{attended}_first"], f"{attention.name}_attended", axis=1
        )
        cut += [attention, taken]
    for name, replacement, consumers in (
        (attended, f"{attended}_first", users[attended]),
        (residual, first, [first_norm]),
        (pick.output[0], last_norm.output[0], users[pick.output[0]]),
    ):
        for consumer in consumers:
            consumer.input[:] = [replacement if given == name else given for given in consumer.input]
    constant = [node for node in graph.node if pick.input[1] in node.output]
    nodes = [node for node in graph.node if node is not pick and node not in constant]
    place = nodes.index(attention)
    del graph.node[:]
    graph.node.extend([*constant, *nodes[:place], *cut, *nodes[place + 1 :]])
    del graph.value_info[:]  # shapes behind the cut are others now
    return True


def _attention_of_one(model: ModelProto, attention: NodeProto, first: str, out: str) -> list[NodeProto]:
    """Nodes for what ``attention`` gives the first token, [n, width], from its input and that token, ``first``."""
    tables, given = constants(model), {a.name: helper.get_attribute_value(a) for a in attention.attribute}
    weight, bias = tables[attention.input[1]], tables[attention.input[2]]
    heads, (width, three) = given["num_heads"], weight.shape
    size = three // 3 // heads
    scale = given.get("scale") or size**-0.5
    query, key, value = (weight[:, i * heads * size : (i + 1) * heads * size] for i in range(3))
    prefix = attention.name
    stored = {
        "query": query * scale,
        "query_bias": bias[: heads * size] * scale,  # the bias of the keys adds the same to every score of a query
        "key": key.reshape(width, heads, size).transpose(1, 2, 0),
        "value": value.reshape(width, heads, size).transpose(1, 0, 2),
        "value_bias": bias[2 * heads * size :],  # the weights of a mean add up to 1
        "heads": np.array([0, heads, size]),
        "row": np.array([0, heads * size]),
    }
    for name, array in stored.items():
        array = np.ascontiguousarray(array, np.int64 if array.dtype == np.int64 else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, f"{prefix}_{name}"))

    nodes: list[NodeProto] = []

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = output if output == out else f"{prefix}_{output}"
        domain = "com.microsoft" if kind == "FusedMatMul" else ""
        nodes.append(helper.make_node(kind, inputs, [name], f"{prefix}_{output}_node", domain=domain, **attributes))
        return name

    def swapped(name: str, output: str) -> str:
        return add("Transpose", [name], output, perm=[1, 0, 2])

    tokens = attention.input[0]
    asked = add("FusedMatMul", [first, f"{prefix}_query"], "asked")  # which quantising leaves alone
    asked = add("Add", [asked, f"{prefix}_query_bias"], "asked_biased")
    asked = swapped(add("Reshape", [asked, f"{prefix}_heads"], "asked_heads"), "asked_by_head")
    asked = swapped(add("FusedMatMul", [asked, f"{prefix}_key"], "looked_for_by_head"), "looked_for")
    scores = add("FusedMatMul", [asked, tokens], "scores", transB=1)
    if len(attention.input) > 3 and attention.input[3]:
        scores = add("Add", [scores, _padding_penalty(model, prefix, nodes)], "masked_scores")
    shares = add("Softmax", [scores], "shares", axis=-1)
    mean = swapped(add("FusedMatMul", [shares, tokens], "mean"), "mean_by_head")
    valued = swapped(add("FusedMatMul", [mean, f"{prefix}_value"], "valued_by_head"), "valued")
    valued = add("Reshape", [valued, f"{prefix}_row"], "valued_row")
    add("Add", [valued, f"{prefix}_value_bias"], out)
    return nodes


def _padding_penalty(model: ModelProto, prefix: str, nodes: list[NodeProto]) -> str:
    """A tensor [n, 1, tokens]: 0 for a token, MASKED for padding."""
    for name, array in (
        ("one", np.float32(1)),
        ("masked", np.float32(-MASKED)),
        ("axis", np.array([1])),
    ):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{prefix}_{name}"))
    steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Cast", ["attention_mask"], "mask_float", {"to": onnx.TensorProto.FLOAT}),
        ("Sub", [f"{prefix}_mask_float", f"{prefix}_one"], "mask_less_one", {}),
        ("Mul", [f"{prefix}_mask_less_one", f"{prefix}_masked"], "penalty", {}),
        ("Unsqueeze", [f"{prefix}_penalty", f"{prefix}_axis"], "penalty_row", {}),
    )
    for kind, inputs, output, attributes in steps:
        nodes.append(helper.make_node(kind, inputs, [f"{prefix}_{output}"], f"{prefix}_{output}_node", **attributes))
    return f"{prefix}_penalty_row"


def takes_first_token(model: ModelProto, node: NodeProto) -> bool:
    """Whether ``node`` is ``Gather(x, 0, axis=1)`` with a scalar index."""
    if node.op_type != "Gather" or next((a.i for a in node.attribute if a.name == "axis"), 0) != 1:
        return False
    index = next((array for name, array in _constants(model, 0) if name == node.input[1]), None)
    return index is not None and int(index) == 0


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    """Every initializer and Constant node by name."""
    return dict(_constants(model))


def _constants(model: ModelProto, rank: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of each constant, or of those with ``rank`` dimensions."""
    tensors = [(tensor.name, tensor) for tensor in model.graph.initializer]
    tensors += [
        (node.output[0], node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    ]
    for name, tensor in tensors:
        if rank is None or len(tensor.dims) == rank:
            yield name, numpy_helper.to_array(tensor)
