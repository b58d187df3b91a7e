"""A table of token embeddings in few bits: onnxruntime reads back what was stored, whatever the width."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from jirgee_export.embeddings import quantise_table


def embedding_graph(table: np.ndarray, length: int):
    """EmbedLayerNormalization alone: ids int32 [texts, length] -> [texts, length, width]."""
    width = table.shape[1]
    tensors = {
        "table": table,
        "positions": np.zeros((length, width), np.float32),
        "gamma": np.ones(width, np.float32),
        "beta": np.zeros(width, np.float32),
    }
    inputs = ["ids", "", "table", "positions", "", "gamma", "beta"]
    node = helper.make_node("EmbedLayerNormalization", inputs, ["embedded", ""], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "embeddings",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["texts", length])],
        [helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["texts", length, width])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(model, ids: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["embedded"], {"ids": ids})[0]


@pytest.mark.parametrize("width", [8, 24, 40, 64, 312, 384])
@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.3)])
def test_rows_come_back(width: int, bits: int, error: float) -> None:
    table = np.random.default_rng(width).normal(0, 0.05, (50, width)).astype(np.float32)
    model = embedding_graph(table, 10)
    stored = quantise_table(model, bits)
    assert next(node.op_type for node in stored.graph.node) == "GatherBlockQuantized"
    assert "table" not in [tensor.name for tensor in stored.graph.initializer]
    ids = np.arange(50, dtype=np.int32).reshape(5, 10)
    assert np.abs(run(model, ids) - run(stored, ids)).max() < error


def test_half_a_byte_cannot_be_stored() -> None:
    model = embedding_graph(np.ones((4, 9), np.float32), 2)
    assert quantise_table(model, 4).graph.node[0].op_type == "EmbedLayerNormalization"
