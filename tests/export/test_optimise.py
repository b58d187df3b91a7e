"""Fusing is complete or refused; the two rewrites of our own change nothing but the work that is done."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.transformers import optimizer
from transformers import BertConfig

from jirgee.errors import GateError
from jirgee_export.first_token import cut_last_layer
from jirgee_export.graph import export_graph
from jirgee_export.optimise import (
    check_fusion,
    count_operators,
    fold_segments,
    optimise,
    prune,
)

from .conftest import random_batch, run_graph, run_torch

BATCHES = [(1, 1), (1, 48), (9, 17)]


@pytest.fixture
def only_fused(plain_graph, tiny_model):
    """What onnxruntime's optimiser makes, before the rewrites."""
    fused = optimizer.optimize_model(str(plain_graph), "bert", num_heads=2, hidden_size=32, opt_level=0)
    fused.change_graph_inputs_to_int32()
    return fused.model


def largest_change(model, reference, rows, width):
    ids, mask = random_batch(rows, width)
    return np.abs(run_graph(model, ids, mask) - run_torch(reference, ids, mask)).max()


def inputs(model):
    return [value.name for value in model.graph.input]


def test_everything_that_the_architecture_has_is_fused(fused):
    counts = count_operators(fused)
    assert counts["EmbedLayerNormalization"] == 1
    assert counts["BiasGelu"] == 2
    assert counts["Attention"] == counts["Softmax"] == 1, "the last one is computed for the first token"
    assert counts["SkipLayerNormalization"] == 4
    assert not counts.keys() & {"LayerNormalization", "Erf", "Shape"}
    onnx.checker.check_model(fused)


def test_the_optimised_graph_reads_two_int32_inputs(fused):
    assert inputs(fused) == ["input_ids", "attention_mask"]
    assert {value.type.tensor_type.elem_type for value in fused.graph.input} == {onnx.TensorProto.INT32}


@pytest.mark.parametrize(("rows", "width"), BATCHES)
def test_the_optimised_graph_is_the_checkpoint(fused, tiny_model, rows, width):
    assert largest_change(fused, tiny_model, rows, width) < 1e-5


@pytest.mark.parametrize(("rows", "width"), BATCHES)
def test_folding_the_segments_is_exact(only_fused, tiny_model, rows, width):
    assert "token_type_ids" in inputs(only_fused)
    fold_segments(only_fused)
    prune(only_fused)
    assert "token_type_ids" not in inputs(only_fused)
    assert largest_change(only_fused, tiny_model, rows, width) < 1e-5


def test_folding_twice_is_folding_once(only_fused):
    fold_segments(only_fused)
    once = only_fused.SerializeToString()
    fold_segments(only_fused)
    assert only_fused.SerializeToString() == once


@pytest.mark.parametrize(("rows", "width"), BATCHES)
def test_cutting_the_last_layer_is_exact(only_fused, tiny_model, rows, width):
    assert cut_last_layer(only_fused)
    assert largest_change(only_fused, tiny_model, rows, width) < 1e-5


def test_the_cut_leaves_one_token_in_the_last_layer(fused):
    norm = [node for node in fused.graph.node if node.op_type == "SkipLayerNormalization"][-1]
    fused.graph.output.append(onnx.helper.make_empty_tensor_value_info(norm.output[0]))
    import onnxruntime

    session = onnxruntime.InferenceSession(fused.SerializeToString(), providers=["CPUExecutionProvider"])
    ids, mask = random_batch(5, 11)
    hidden = session.run([norm.output[0]], {"input_ids": ids.astype("i4"), "attention_mask": mask.astype("i4")})[0]
    assert np.asarray(hidden).shape == (5, 32)


def test_a_graph_cannot_be_cut_twice(fused):
    before = fused.SerializeToString()
    assert not cut_last_layer(fused)
    assert fused.SerializeToString() == before


@pytest.mark.parametrize("operator", ["EmbedLayerNormalization", "Attention", "SkipLayerNormalization", "BiasGelu"])
def test_a_missing_fusion_is_refused_by_name_and_count(only_fused, operator):
    count = count_operators(only_fused)[operator]
    next(node for node in only_fused.graph.node if node.op_type == operator).op_type = "Unfused"
    with pytest.raises(GateError, match=rf"not fully fused \({operator} {count - 1} of {count}\)"):
        check_fusion(only_fused, 2)


def test_optimise_refuses_a_graph_that_onnxruntime_does_not_fuse(plain_graph, tiny_model):
    config = copy.deepcopy(tiny_model.config)
    config.num_hidden_layers = 3
    with pytest.raises(GateError, match=r"Attention 2 of 3, SkipLayerNormalization 4 of 6, BiasGelu 2 of 3"):
        optimise(plain_graph, config)


class MeanPooler(torch.nn.Module):
    """Reads every token: mean over the length, then as BERT's pooler."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def forward(self, hidden):
        return torch.tanh(self.dense(hidden.mean(dim=1)))


def test_a_head_that_reads_every_token_is_left_uncut(tmp_path, tiny_model):
    model = copy.deepcopy(tiny_model)
    model.bert.pooler = MeanPooler(model.bert.pooler.dense)
    export_graph(model, tmp_path / "mean.onnx")
    graph = optimise(tmp_path / "mean.onnx", model.config)
    before = graph.SerializeToString()
    assert not cut_last_layer(graph)
    assert graph.SerializeToString() == before
    assert not [node for node in graph.graph.node if node.op_type == "Gather"]
    assert largest_change(graph, model, 1, 13) < 1e-5
    ids, mask = random_batch(4, 9)
    assert np.abs(run_graph(graph, ids, mask) - run_torch(tiny_model, ids, mask)).max() > 1e-3, "another function"


def test_prune_drops_what_nothing_reads(fused):
    tensor = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "nobody")
    names = {tensor.name for tensor in fused.graph.initializer}
    fused.graph.initializer.append(tensor)
    prune(fused)
    assert {tensor.name for tensor in fused.graph.initializer} == names


def test_the_expected_counts_follow_the_layers():
    assert BertConfig().num_hidden_layers == 12
    node = onnx.helper.make_node
    names = ["EmbedLayerNormalization", *["Attention", "BiasGelu", *["SkipLayerNormalization"] * 2] * 12]
    graph = onnx.helper.make_graph([node(name, [], []) for name in names], "twelve", [], [])
    check_fusion(onnx.helper.make_model(graph), 12)
    with pytest.raises(GateError):
        check_fusion(onnx.helper.make_model(graph), 11)


def test_only_positions_that_a_text_can_have_are_kept(plain_graph, tiny_model):
    whole, short = (optimise(plain_graph, tiny_model.config, max_tokens=count) for count in (None, 24))
    ids, mask = random_batch(8, 24)
    assert np.array_equal(run_graph(whole, ids, mask), run_graph(short, ids, mask))
    rows = tiny_model.config.max_position_embeddings - 24
    saved = len(whole.SerializeToString()) - len(short.SerializeToString())
    assert saved >= 4 * rows * tiny_model.config.hidden_size
