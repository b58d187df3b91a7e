"""Smoothing is the same function, takes outliers out of the activations, and is done where it pays."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from jirgee_export.calibrate import Calibration, Channels
from jirgee_export.graph_source import Source
from jirgee_export.products import LEVELS, Form, products, rewrite
from jirgee_export.smoothing import WORTH, _noise, factors, smooth, worthy_factors

from .conftest import run_graph

LOUD, TIMES = 3, 20.0


def with_loud_values(fused: ModelProto) -> ModelProto:
    """The graph with a few values of its first attention TIMES larger, and what multiplies them as much smaller."""
    model = ModelProto()
    model.CopyFrom(fused)
    tables = {tensor.name: tensor for tensor in model.graph.initializer}
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    width = tables[attention.input[1]].dims[0]
    behind = next(node for node in model.graph.node if attention.output[0] in node.input)

    def scale(name: str, place, factor: float) -> None:
        values = numpy_helper.to_array(tables[name]).copy()
        values[place] *= factor
        tables[name].CopyFrom(numpy_helper.from_array(values, name))

    loud = slice(2 * width, 2 * width + LOUD)
    scale(attention.input[1], (slice(None), loud), TIMES)
    scale(attention.input[2], loud, TIMES)
    scale(behind.input[1], slice(LOUD), 1 / TIMES)
    return model


@pytest.fixture
def outliers(fused, calibration) -> Source:
    return Source(with_loud_values(fused), calibration)


def batch(calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    encoded = calibration.encoded
    return encoded.padded(np.arange(len(encoded)), int(encoded.lengths.max()), calibration.pad_id)


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8])
def test_the_same_function(outliers, calibration, strength):
    smoothed = outliers.smoothed(strength)
    change = np.abs(run_graph(smoothed, *batch(calibration)) - run_graph(outliers.fused, *batch(calibration))).max()
    assert change < 1e-3
    onnx.checker.check_model(smoothed)


def test_every_product_is_smoothed_and_its_input_flatter(outliers, calibration):
    model, smoothed = outliers.migrated, outliers.smoothed(0.8)
    found = products(model)
    assert len(found) == 7, "four a layer, but for the last attention, which stays float"
    inputs = {product.node: product.tensor for product in products(smoothed)}
    assert all(inputs[product.node] != product.tensor for product in found)
    behind = found[1]
    before = calibration.channels(model, [behind.tensor])[behind.tensor].peak
    after = calibration.channels(smoothed, [inputs[behind.node]])[inputs[behind.node]].peak
    assert after.max() / np.median(after) < 0.3 * before.max() / np.median(before)


def test_eight_bits_cost_less_after_smoothing(outliers, calibration):
    exact = run_graph(outliers.fused, *batch(calibration))
    form = Form("int7", "batch")
    plain, smoothed = (
        run_graph(rewrite(model, {p.node: form for p in products(model)}), *batch(calibration))
        for model in (outliers.migrated, outliers.smoothed(0.8))
    )
    assert np.abs(smoothed - exact).mean() < 0.9 * np.abs(plain - exact).mean()


def test_no_pass_is_made_for_little(outliers):
    found = worthy_factors(outliers.migrated, outliers.channels, LEVELS["int7"])
    kept = [product.node for product in products(outliers.migrated) if product.node in found]
    assert any("attention" in name for name in kept), "free"
    assert 0 < len(kept) < 7
    model = smooth(outliers.migrated, found)
    assert sum(node.name.endswith("_smooth") for node in model.graph.node) == len(kept)


def test_a_loud_channel_that_hardly_counts_is_worth_a_pass():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((500, 16))
    matrix = rng.standard_normal((16, 8)).astype(np.float32)
    for loud, worth in ((1, False), (40, True)):
        x = values * np.where(np.arange(16) == 3, loud, 1)
        w = matrix / np.where(np.arange(16) == 3, loud, 1)[:, None]
        seen = Channels(x.min(axis=0), x.max(axis=0), np.square(x).mean(axis=0))
        even = np.where(np.arange(16) == 3, loud, 1).astype(np.float32)
        assert (_noise(seen, w, np.ones_like(even), 127) > WORTH * _noise(seen, w, even, 127)) == worth


def test_noise_is_what_rounding_adds():
    """Against the arithmetic itself, on normal values."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4000, 64)) * rng.uniform(0.5, 3, 64)
    matrix = rng.standard_normal((64, 48)).astype(np.float32)
    seen = Channels(x.min(axis=0), x.max(axis=0), np.square(x).mean(axis=0))
    step = (x.max() - x.min()) / 255
    scale = np.abs(matrix).max(axis=0) / 64
    off = (np.rint(x / step) * step) @ (np.rint(matrix / scale) * scale) - x @ matrix
    assert _noise(seen, matrix, np.ones(64, np.float32), 64) == pytest.approx(
        np.square(off).sum(axis=1).mean(), rel=0.1
    )


def test_factors_have_a_mean_of_one(outliers):
    for factor in factors(outliers.migrated, outliers.channels, 0.5).values():
        assert np.log(factor).mean() == pytest.approx(0, abs=1e-5)
