"""A norm's factors and shifts in what reads it: the same function, easier to round, no pass more."""

import copy

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from jirgee_export.gamma import PLACES, migrate
from jirgee_export.graph import export_graph
from jirgee_export.optimise import optimise
from jirgee_export.products import Form, products, rewrite

from .conftest import random_batch, run_graph

LOUD = 3  # channels


@pytest.fixture(scope="module", params=[True, False], ids=["one query", "all queries"])
def loud(request, tmp_path_factory, tiny_model) -> ModelProto:
    """The tiny model with biases, gammas and betas that differ, and with a few loud channels in every norm."""
    model = copy.deepcopy(tiny_model)
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            if "LayerNorm.weight" in name:
                parameter[:LOUD] *= 20
    path = tmp_path_factory.mktemp("loud") / "graph.onnx"
    export_graph(model, path)
    return optimise(path, model.config, request.param)


def test_the_same_function_with_plain_norms(loud):
    migrated = migrate(loud)
    tables = {tensor.name: numpy_helper.to_array(tensor) for tensor in migrated.graph.initializer}
    norms = [node for node in migrated.graph.node if node.op_type in PLACES]
    assert len(norms) == 5
    for node in norms:
        gamma, beta = (tables[name] for name in node.input[PLACES[node.op_type] :][:2])
        assert (gamma == 1).all()
        assert (beta == 0).all()
    for rows, width in ((1, 1), (9, 17)):
        ids, mask = random_batch(rows, width)
        assert np.abs(run_graph(migrated, ids, mask) - run_graph(loud, ids, mask)).max() < 1e-4


def test_the_given_graph_is_not_changed(loud):
    before = loud.SerializeToString()
    migrate(loud)
    assert loud.SerializeToString() == before


def test_loud_channels_cost_eight_bits_less(loud):
    ids, mask = random_batch(200, 17)
    exact = run_graph(loud, ids, mask)

    def lost(model: ModelProto) -> float:
        stored = rewrite(model, {p.node: Form("int8", "batch") for p in products(model)})
        return float(np.abs(run_graph(stored, ids, mask) - exact).mean())

    assert lost(migrate(loud)) < 0.7 * lost(loud)


def test_a_norm_whose_result_is_an_output_stays(loud):
    watched = copy.deepcopy(loud)
    norm = next(node for node in watched.graph.node if node.op_type == "SkipLayerNormalization")
    watched.graph.output.add(name=norm.output[0])
    kept = next(node for node in migrate(watched).graph.node if node.name == norm.name)
    assert list(kept.input[2:4]) == list(norm.input[2:4])
    assert list(kept.output) == list(norm.output)
