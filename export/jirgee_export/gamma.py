"""The factor γ and the shift β of every normalisation go into what reads it. The same function up to rounding.

γ amplifies the few loud channels that a BERT has, so that one scale a tensor leaves little for the rest. A product that
takes the normal values as they are, with γ in its weights and β in its bias, is easier to quantise and saves a pass
over them (Gamma Migration, Wei et al. 2022, arXiv:2209.13325).
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from .first_token import takes_first_token
from .graph_edit import BIASES, Graph, bias_of

PLACES = {"EmbedLayerNormalization": 5, "SkipLayerNormalization": 2, "LayerNormalization": 1}  # γ's input; β's is next
SKIP_BIAS = BIASES["SkipLayerNormalization"]  # added before it normalises


def migrate(model: ModelProto) -> ModelProto:
    """A copy of the fused graph ``model`` whose normalisations have γ = 1 and β = 0, where they are constants."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    for norm in graph.of(*PLACES):
        _migrate(graph, norm)
    graph.finish()
    return result


def _migrate(graph: Graph, norm: NodeProto) -> None:
    place, out = PLACES[norm.op_type], norm.output[0]
    tables = list(norm.input[place : place + 2])
    sums = norm.output[1:] if norm.op_type == "SkipLayerNormalization" else ()
    if len(tables) < 2 or set(tables) - graph.tables.keys() or any(sums) or out in graph.outputs:
        return
    gamma, beta = (graph.array(name) for name in tables)
    unit, scaled = f"{out}_unit", f"{out}_scaled"
    readers = sorted(graph.users(out), key=lambda node: takes_first_token(graph.model, node))  # those last
    norm.input[place] = graph.store(f"{norm.name}_one", np.ones_like(gamma))
    norm.input[place + 1] = graph.store(f"{norm.name}_zero", np.zeros_like(beta))
    norm.output[0] = unit

    def shift(node: NodeProto, bias: int, by: np.ndarray) -> None:
        node.input.extend([""] * (bias + 1 - len(node.input)))
        given = graph.array(node.input[bias]) if node.input[bias] else np.zeros_like(by)
        node.input[bias] = graph.store(f"{node.name}_beta", given + by)

    passes = 0  # of two over all tokens, γ and β, how many somebody still needs
    for reader in readers:
        if found := _bias_behind(graph, reader, out):
            weights = graph.array(reader.input[1])
            reader.input[0], reader.input[1] = unit, graph.store(f"{reader.name}_gamma", weights * gamma[:, None])
            shift(*found, beta @ weights)
        elif _is_residual(graph, reader, out):
            reader.input[:2] = [scaled if name == out else name for name in reader.input[:2]]
            shift(reader, SKIP_BIAS, beta)
            passes = max(passes, 1)
        elif passes < 2 and takes_first_token(graph.model, reader):  # γ and β of one row a text
            picked = reader.output[0]
            reader.input[0], reader.output[0] = unit, f"{picked}_unit"
            graph.nodes += _affine(reader.output[0], f"{picked}_scaled", picked, tables)
        else:
            passes = 2
    graph.nodes += _affine(unit, scaled, out, tables)[:passes]


def _affine(unit: str, scaled: str, out: str, tables: list[str]) -> list[NodeProto]:
    gamma, beta = tables
    return [
        helper.make_node("Mul", [unit, gamma], [scaled], scaled),
        helper.make_node("Add", [scaled, beta], [out], f"{scaled}_shifted"),
    ]


def _bias_behind(graph: Graph, product: NodeProto, x: str) -> tuple[NodeProto, int] | None:
    """Where the bias of ``product``, of ``x`` with constant weights, is: node and input. None if it has no such."""
    if product.input[0] != x or product.op_type not in ("Attention", "MatMul") or product.input[1] not in graph.tables:
        return None
    return bias_of(graph, product)


def _is_residual(graph: Graph, node: NodeProto, x: str) -> bool:
    bias = [*node.input, "", ""][SKIP_BIAS] if node.op_type == "SkipLayerNormalization" else None
    return bias is not None and list(node.input[:2]).count(x) == 1 and (not bias or bias in graph.tables)
