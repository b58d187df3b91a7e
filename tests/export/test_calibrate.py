"""Smoothing is the same function, takes the outliers out of the activations, and makes 8 bits cost less."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from jirgee_export.calibrate import Calibration, Source
from jirgee_export.products import Form, products, rewrite


def run(model: onnx.ModelProto, ids: np.ndarray, mask: np.ndarray, name: str) -> np.ndarray:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    if name not in {value.name for value in model.graph.output}:
        watched.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], {"input_ids": ids, "attention_mask": mask})[0])


def with_outliers(fused: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with three channels of every LayerNorm 20 times larger, and what multiplies them 20 times smaller."""
    model = onnx.ModelProto()
    model.CopyFrom(fused)
    tables = {tensor.name: tensor for tensor in model.graph.initializer}

    def scale(name: str, factor: float) -> None:
        values = onnx.numpy_helper.to_array(tables[name]).copy()
        values[:3] *= factor
        tables[name].CopyFrom(onnx.numpy_helper.from_array(values, name))

    scales = {"EmbedLayerNormalization": 5, "SkipLayerNormalization": 2}  # the input gamma; beta comes next
    for norm in [node for node in model.graph.node if node.op_type in scales]:
        place = scales[norm.op_type]
        scale(norm.input[place], 20)
        scale(norm.input[place + 1], 20)
        for node in model.graph.node:
            if node.op_type in ("MatMul", "Attention") and node.input[0] == norm.output[0]:
                scale(node.input[1], 1 / 20)
    return model


def test_smoothing_is_the_same_function(fused, calibration):
    rows = np.arange(len(calibration.encoded))
    ids, mask = calibration.encoded.padded(rows, int(calibration.encoded.lengths.max()), calibration.pad_id)
    before, after = (run(m, ids, mask, "logits") for m in (fused, Source(fused, calibration).smoothed(0.8)))
    assert np.abs(before - after).max() < 1e-3 * max(1.0, float(np.abs(before).max()))


def test_every_product_is_smoothed_and_its_input_flatter(fused, calibration):
    model = with_outliers(fused)
    smoothed = Source(model, calibration).smoothed(0.8)
    found = products(model)
    inputs = {node.name: node.input[0] for node in smoothed.graph.node if node.input}
    assert len(found) == 7, "four a layer, but for the last attention, which stays float"
    assert all(inputs[product.node] != product.tensor for product in found)
    last = found[-1]
    before = calibration.peaks(model, [last.tensor])[last.tensor]
    after = calibration.peaks(smoothed, [inputs[last.node]])[inputs[last.node]]
    assert after.max() / np.median(after) < before.max() / np.median(before)


def test_eight_bits_cost_less_after_smoothing(fused, calibration):
    model = with_outliers(fused)
    rows = np.arange(len(calibration.encoded))
    ids, mask = calibration.encoded.padded(rows, int(calibration.encoded.lengths.max()), calibration.pad_id)
    norm = [node for node in model.graph.node if node.op_type == "SkipLayerNormalization"][1].output[0]
    exact = run(model, ids, mask, norm)[mask.astype(bool)]
    source, form = Source(model, calibration), Form("int7", "batch")
    plain, smoothed = (
        run(rewrite(source.smoothed(s), {p.node: form for p in products(model)}), ids, mask, norm)[mask.astype(bool)]
        for s in (0.0, 0.5)
    )
    assert np.abs(smoothed - exact).mean() < 0.25 * np.abs(plain - exact).mean()


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
