"""Writing ONNX graphs by hand: a node is a call, a constant is a number, names make themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

EXTENSIONS = "ai.onnx.contrib"  # the domain of onnxruntime-extensions


class GraphBuilder:
    """Collects nodes and constants. ``prefix`` keeps the names of one graph apart from another's."""

    def __init__(self, prefix: str):
        self._prefix, self._count = prefix, 0
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def __call__(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node; returns the name of its output, or a list of names if it has several."""
        names = [self._name(operator) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, names[0], domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Add a constant; returns its name. A list of strings is one of type string."""
        name = self._name("constant")
        if isinstance(value, Sequence) and value and isinstance(value[0], str):
            encoded = [text.encode() for text in value]
            self.constants.append(helper.make_tensor(name, TensorProto.STRING, [len(value)], encoded))
        else:
            self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def cast(self, name: str, to: int) -> str:
        return self("Cast", name, to=to)

    def slice(self, name: str, start: str, end: str) -> str:
        """Along the first axis. ``start`` and ``end``: names of int64 [1]."""
        return self("Slice", name, start, end, self.constant([0]))

    def graph(self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> GraphProto:
        return helper.make_graph(self.nodes, name, inputs, outputs, self.constants)

    def _name(self, word: str) -> str:
        self._count += 1
        return f"{self._prefix}_{word}_{self._count}"
