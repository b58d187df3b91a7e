"""Lowering changes the operators and not the function; what it does not recognise it leaves alone."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from jirgee.tokens import Encoded
from jirgee_export.calibrate import Calibration
from jirgee_export.graph import export_graph
from jirgee_export.graph_source import Source
from jirgee_export.lower import lower
from jirgee_export.optimise import count_operators, optimise
from jirgee_export.quantise import RECIPES

from .conftest import random_batch, run_graph

BATCHES = [(1, 1), (1, 48), (9, 17)]


@pytest.fixture(scope="module")
def lively(tmp_path_factory, tiny_model):
    """The tiny model with biases, gammas and betas that are all different, as a fused graph of three layers' worth."""
    model = copy.deepcopy(tiny_model)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    path = tmp_path_factory.mktemp("lively") / "graph.onnx"
    export_graph(model, path)
    return optimise(path, model.config)


@pytest.fixture(scope="module")
def source(lively):
    ids, mask = random_batch(16, 20)
    lengths = mask.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    encoded = Encoded(ids[mask.astype(bool)].astype(np.int32), offsets, np.zeros(16, bool))
    return Source(lively, Calibration(encoded, pad_id=3))


def change(one, other, rows, width):
    ids, mask = random_batch(rows, width)
    return np.abs(run_graph(one, ids, mask) - run_graph(other, ids, mask)).max()


@pytest.mark.parametrize(("rows", "width"), BATCHES)
def test_the_float_graph_stays_the_same_function(lively, source, rows, width):
    lowered = lower(RECIPES["fp32"].apply(source))
    assert count_operators(lowered)["InstanceNormalization"] == 4
    assert change(lowered, lively, rows, width) < 1e-5


@pytest.mark.parametrize("recipe", [name for name in RECIPES if RECIPES[name].lowered and name != "fp32"])
def test_eight_bits_lose_no_more_than_before(lively, source, recipe):
    stored = RECIPES[recipe].apply(source)
    lowered = lower(stored)
    ids, mask = random_batch(400, 17)
    exact, before, after = (run_graph(model, ids, mask) for model in (lively, stored, lowered))
    lost, loses = np.abs(before - exact).mean(), np.abs(after - exact).mean()
    assert 0 < loses < 1.25 * lost + 0.001, "the steps of the activations lie elsewhere, their size is the same"


def test_what_was_slow_is_gone(source):
    counts = count_operators(lower(RECIPES["int8-batch"].apply(source)))
    slow = {"SkipLayerNormalization", "BiasGelu", "QAttention", "MatMulInteger", "Cast"} - {"Cast"}
    assert not counts.keys() & slow
    assert counts["MatMulIntegerToFloat"] == 3, "query, key and value of the layer that reads every token"
    assert counts["DynamicQuantizeLinear"] == 1, "of one quantised input"
    assert counts["DynamicQuantizeMatMul"] == 6


def test_no_pass_is_spent_on_a_factor_or_shift_that_a_product_can_take(source):
    lowered = lower(RECIPES["int8-batch"].apply(source))
    names = [node.name for node in lowered.graph.node]
    assert sum(name.endswith("_shifted") for name in names) == 2, "read by the last attention and by the head, in float"
    assert sum(name.endswith("_scaled") for name in names) == 5, "one for each norm, as a residual or for the head"


def test_inputs_and_outputs_stay(source):
    stored = RECIPES["int8-batch"].apply(source)
    lowered = lower(stored)
    assert list(lowered.graph.input) == list(stored.graph.input)
    assert list(lowered.graph.output) == list(stored.graph.output)
    onnx.checker.check_model(lowered)


def test_the_given_graph_is_not_changed(source):
    stored = RECIPES["int8-batch"].apply(source)
    before = stored.SerializeToString()
    lower(stored)
    assert stored.SerializeToString() == before


def test_weights_keep_their_bits(source):
    def eight_bits(model):
        arrays = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 2]
        return sorted(np.sort(array, axis=None).tobytes() for array in arrays if array.dtype.itemsize == 1)

    stored = RECIPES["int8-batch"].apply(source)
    qkv = next(numpy_helper.to_array(t) for t in stored.graph.initializer if t.name.endswith("Attention_0_weights"))
    parts = sorted(np.sort(part, axis=None).tobytes() for part in np.split(qkv, 3, axis=1))
    kept = [array for array in eight_bits(stored) if array != np.sort(qkv, axis=None).tobytes()]
    assert eight_bits(lower(stored)) == sorted(kept + parts)


def test_an_unknown_graph_is_left_alone():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"]),  # its sums themselves are the output
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [2, 4])],
        [numpy_helper.from_array(np.ones((3, 4), np.int8), "w")],
    )
    model = helper.make_model(graph)
    assert [node.op_type for node in lower(model).graph.node] == ["DynamicQuantizeLinear", "MatMulInteger"]
