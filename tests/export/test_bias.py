"""Corrected biases: the mean of every product's results is what it was before rounding."""

import numpy as np
import onnx
import pytest

from jirgee_export.bias import correct
from jirgee_export.graph_edit import Graph, bias_of
from jirgee_export.products import Form, products, rewrite

from .conftest import run_graph

FORM = Form("int7", "static")


@pytest.fixture
def ranges(source):
    return {p.tensor: source.channels[p.tensor].range for p in products(source.migrated)}


def test_every_product_has_a_bias_and_gets_another(source, ranges):
    corrected = correct(source.migrated, source.calibration, FORM, ranges)
    before, after = Graph(source.migrated), Graph(corrected)
    for product in products(source.migrated):
        places = []
        for graph in (before, after):
            node = next(node for node in graph.nodes if node.name == product.node)
            place = bias_of(graph, node)
            assert place is not None, product.node
            places.append(graph.array(place[0].input[place[1]]))
        assert np.abs(places[0] - places[1]).max() > 0, product.node
    onnx.checker.check_model(corrected)


def test_the_mean_of_the_results_comes_back(source, ranges):
    """Of the first product, whose input nothing before it changes."""
    first = next(p for p in products(source.migrated) if p.kind == "Attention")
    node = next(node for node in source.migrated.graph.node if node.name == first.node)
    table = Graph(source.migrated).array(first.weights)
    (exact, cut) = source.calibration.means(source.migrated, [first.tensor], ranges)[first.tensor]
    assert np.abs(exact - cut).max() < (ranges[first.tensor][1] - ranges[first.tensor][0]) / 255
    corrected = Graph(correct(source.migrated, source.calibration, FORM, ranges))
    bias = next(n for n in corrected.nodes if n.name == first.node).input[2]
    stored = rewrite(source.migrated, {first.node: FORM}, ranges)
    tables = {t.name: onnx.numpy_helper.to_array(t) for t in stored.graph.initializer}
    weights = tables[f"{first.node}_weights"] * tables[f"{first.node}_scale"]
    mean = exact @ table + Graph(source.migrated).array(node.input[2])
    assert cut @ weights + corrected.array(bias) == pytest.approx(mean, abs=1e-4)


def test_it_costs_accuracy_nothing_and_mostly_gains(source, ranges):
    encoded = source.calibration.encoded
    ids, mask = encoded.padded(np.arange(len(encoded)), int(encoded.lengths.max()), source.calibration.pad_id)
    exact = run_graph(source.fused, ids, mask)
    lost = [
        np.abs(run_graph(rewrite(model, {p.node: FORM for p in products(model)}, ranges), ids, mask) - exact).mean()
        for model in (source.migrated, correct(source.migrated, source.calibration, FORM, ranges))
    ]
    assert lost[1] < 1.05 * lost[0]
