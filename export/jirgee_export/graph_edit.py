"""A graph's nodes and tables by name, while they are rewritten."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel

BIASES = {"BiasGelu": 1, "SkipLayerNormalization": 4}  # what may come behind a product, and which input its bias is


class Graph:
    """Rewrites the model that it is given; ``finish`` puts the nodes and tables back."""

    def __init__(self, model: ModelProto):
        self.model, self.graph = model, model.graph
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.tables = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}

    def array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.tables[name])

    def store(self, name: str, array: np.ndarray) -> str:
        """Keep ``array`` as a table; returns its name, which is made unique."""
        while name in self.tables:
            name += "_"
        self.tables[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def maker(self, name: str) -> NodeProto | None:
        return next((node for node in self.nodes if name in node.output), None)

    def users(self, name: str) -> list[NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def only_user(self, name: str) -> NodeProto | None:
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def of(self, *kinds: str) -> Iterator[NodeProto]:
        yield from [node for node in self.nodes if node.op_type in kinds]

    def drop(self, *nodes: NodeProto) -> None:
        dropped = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in dropped]

    def finish(self) -> None:
        used = {name for node in self.nodes for name in node.input} | self.outputs
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(node for node in self.nodes if used & set(node.output))
        self.graph.initializer.extend(tensor for name, tensor in self.tables.items() if name in used)
        OnnxModel.graph_topological_sort(self.graph)


def bias_of(graph: Graph, product: NodeProto) -> tuple[NodeProto, int] | None:
    """The node and its input that hold the constant bias of ``product``; None if it has none."""
    node, bias = product, 2
    if product.op_type != "Attention":
        node = graph.only_user(product.output[0])
        bias = BIASES.get(node.op_type, -1) if node else -1
    if not node or bias < 0 or len(node.input) <= bias or node.input[bias] not in graph.tables:
        return None
    return node, bias
