"""com.microsoft's MultiHeadAttention -> ONNX's own Attention, a third faster on onnxruntime's CPU.

The same sums in the same order: the one first copies queries, keys and values so that each head lies on its own, the
other (opset 23, https://onnx.ai/onnx/operators/onnx__Attention.html) multiplies them where they lie. Its mask says of
every pair of tokens whether the first sees the second. Of a mask with one row for all tokens, and of the number of each
text's tokens (opset 24), onnxruntime 1.24 silently compute something else, so neither is used.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from .first_token import takes_first_token
from .graph_edit import Graph
from .opset import raise_opset

OPSET = 23  # onnxruntime 1.24 has all of its operators
MASK, SEES = "attention_mask", "attention_sees"


def use_standard_attention(model: ModelProto) -> None:
    """Rewrite ``model``, in place, where it is recognised: not at all if opset 23 may have changed another operator."""
    graph = Graph(model)
    plain = {node.output[0] for node in graph.of("MultiHeadAttention") if _is_plain(graph, node)}
    if not plain:
        return
    try:
        raise_opset(model, OPSET)
    except ValueError:
        return
    graph = Graph(model)
    _add_mask(graph)
    for node in graph.of("MultiHeadAttention"):
        if node.output[0] not in plain:
            continue
        parts, bias = list(node.input[:3]), node.input[3]
        if bias:
            for place, values in enumerate(np.split(graph.array(bias), 3)):
                name = f"{parts[place]}_biased"
                graph.nodes.append(
                    helper.make_node("Add", [parts[place], graph.store(f"{name}_by", values)], [name], name)
                )
                parts[place] = name
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {"q_num_heads": given["num_heads"], "kv_num_heads": given["num_heads"]}
        attributes |= {name: given[name] for name in ("scale",) if name in given}
        graph.drop(node)
        mask = f"{SEES}_row" if _ask_first_only(graph, node, parts) else SEES
        graph.nodes.append(helper.make_node("Attention", [*parts, mask], list(node.output), node.name, **attributes))
    graph.finish()


def _ask_first_only(graph: Graph, node: NodeProto, parts: list[str]) -> bool:
    """Where only the first token of what ``node`` gives is read, make the query of that token alone: ``parts[0]``."""
    pick, product = graph.only_user(node.output[0]), graph.maker(parts[0])
    if not pick or not takes_first_token(graph.model, pick) or not product or product.op_type != "MatMulIntegerToFloat":
        return False
    first = f"{node.name}_first"
    index = graph.store(f"{first}_index", np.array([0], np.int64))
    graph.nodes.append(helper.make_node("Gather", [product.input[0], index], [first], first, axis=1))
    product.input[0] = first
    return True


def _is_plain(graph: Graph, node: NodeProto) -> bool:
    """Three float tensors, a bias that is a table or none, and as mask how many tokens each text has, or which."""
    bias, mask, *more = [*node.input[3:], "", ""][: max(2, len(node.input) - 3)]
    if any(more) or len(node.output) > 1 or (bias and bias not in graph.tables):
        return False
    while (maker := graph.maker(mask)) is not None and maker.op_type in ("Cast", "ReduceSum"):
        mask = maker.input[0]
    return mask == MASK


def _add_mask(graph: Graph) -> None:
    """Make SEES, bool [n, 1, w, w]: true where the second token is none of padding; and one row of it, [n, 1, 1, w]."""
    one = graph.store(f"{SEES}_one", np.array([1], np.int64))
    axes = graph.store(f"{SEES}_axes", np.array([1, 2], np.int64))
    token, row, width, shape = (f"{SEES}_{part}" for part in ("token", "row", "width", "shape"))
    graph.nodes += [
        helper.make_node("Cast", [MASK], [token], token, to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", [token, axes], [row], row),
        helper.make_node("Shape", [MASK], [width], width, start=1),
        helper.make_node("Concat", [one, one, width, one], [shape], shape, axis=0),
        helper.make_node("Expand", [row, shape], [SEES], SEES),
    ]
