"""Smoothing is the same function, takes the outliers out of the activations, and makes 8 bits cost less."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from jirgee.tokens import Tokenizer
from jirgee_export.calibrate import SMOOTHED, Calibration, smooth
from jirgee_export.quantise import RECIPES


def logits(model: onnx.ModelProto, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])


@pytest.fixture(scope="module")
def calibration(tiny_checkpoint, sample_texts) -> Calibration:
    from jirgee.checkpoint import read_settings

    settings = read_settings(tiny_checkpoint)
    model = (tiny_checkpoint / settings.tokenizer.file).read_bytes()
    encoded = Tokenizer(settings.tokenizer, model, settings.max_tokens).encode(sample_texts[:40])
    return Calibration(encoded, settings.tokenizer.pad_id)


def with_outliers(fused: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with three channels of every LayerNorm 20 times larger, and what multiplies them 20 times smaller."""
    model = onnx.ModelProto()
    model.CopyFrom(fused)
    tables = {tensor.name: tensor for tensor in model.graph.initializer}

    def scale(name: str, factor: float) -> None:
        values = onnx.numpy_helper.to_array(tables[name]).copy()
        values[:3] *= factor
        tables[name].CopyFrom(onnx.numpy_helper.from_array(values, name))

    norms = [node for node in model.graph.node if node.op_type == "SkipLayerNormalization"]
    for norm in norms:
        scale(norm.input[2], 20)
        scale(norm.input[3], 20)
        for node in model.graph.node:
            if node.op_type in SMOOTHED and node.input[0] == norm.output[0]:
                scale(node.input[1], 1 / 20)
    return model


def test_smoothing_is_the_same_function(fused, calibration):
    rows = np.arange(len(calibration.encoded))
    ids, mask = calibration.encoded.padded(rows, int(calibration.encoded.lengths.max()), calibration.pad_id)
    before, after = (logits(model, ids, mask) for model in (fused, smooth(fused, calibration)))
    assert np.abs(before - after).max() < 1e-3 * max(1.0, float(np.abs(before).max()))


def test_every_product_is_smoothed_and_its_input_flatter(fused, calibration):
    model = with_outliers(fused)
    smoothed = smooth(model, calibration)
    constant = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in SMOOTHED and node.input[1] in constant]
    inputs = {node.name: node.input[0] for node in smoothed.graph.node if node.input}
    assert len(products) >= 8
    assert all(inputs[node.name] != node.input[0] for node in products)
    last = products[-1]
    before = calibration.peaks(model, [last.input[0]])[last.input[0]]
    after = calibration.peaks(smoothed, [inputs[last.name]])[inputs[last.name]]
    assert after.max() / np.median(after) < before.max() / np.median(before)


def test_eight_bits_cost_less_after_smoothing(fused, calibration):
    model = with_outliers(fused)
    rows = np.arange(len(calibration.encoded))
    ids, mask = calibration.encoded.padded(rows, int(calibration.encoded.lengths.max()), calibration.pad_id)
    exact = logits(model, ids, mask)
    plain = logits(RECIPES["int8"].apply(model), ids, mask)
    smoothed = logits(RECIPES["int8"].apply(smooth(model, calibration)), ids, mask)
    assert np.abs(smoothed - exact).mean() < 0.7 * np.abs(plain - exact).mean()


def test_peaks_ignore_padding(fused, calibration):
    """One long text beside short ones must not put the padding's activations among the peaks."""
    encoded = calibration.encoded
    name = next(node.input[0] for node in fused.graph.node if node.op_type == "Attention")
    together = calibration.peaks(fused, [name])[name]
    alone = np.zeros_like(together)
    for row in range(len(encoded)):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]]
        single = type(encoded)(ids, np.array([0, len(ids)]), np.zeros(1, dtype=bool))
        alone = np.maximum(alone, Calibration(single, calibration.pad_id).peaks(fused, [name])[name])
    assert np.allclose(together, alone, atol=1e-4)
