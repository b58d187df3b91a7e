"""Every row of RECIPES runs, keeps what it promises, and is stopped by the gate when it is spoiled."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from jirgee.errors import GateError
from jirgee_export.build import build
from jirgee_export.cli import RECIPE_NAMES
from jirgee_export.quantise import RECIPES

from .conftest import not_a_number, random_batch, run_graph, run_torch, scale_spoiled

EIGHT_BIT = [name for name in RECIPES if name.startswith("int8")]


def weights(model, kind=None):
    return {t.name: t for t in model.graph.initializer if kind is None or t.data_type == kind}


def test_the_command_line_offers_auto_and_every_row():
    assert ("auto", *RECIPES) == RECIPE_NAMES


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_runs_and_stays_near_the_checkpoint(fused, tiny_model, name):
    stored = RECIPES[name].apply(fused)
    ids, mask = random_batch(16, 24)
    probs = run_graph(stored, ids, mask)
    assert np.abs(probs - run_torch(tiny_model, ids, mask)).mean() < (1e-5 if name == "fp32" else 0.05)


@pytest.mark.parametrize("name", RECIPES)
def test_the_head_stays_float(fused, name):
    stored = RECIPES[name].apply(fused)
    heads = [node for node in stored.graph.node if node.op_type in ("Gemm", "MatMul")]
    floats = weights(stored, TensorProto.FLOAT)
    shapes = [tuple(floats[given].dims) for node in heads for given in node.input if given in floats]
    assert (2, 32) in shapes or (32, 2) in shapes, "no float matrix of 32 inputs and 2 labels"


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_eight_bit_weights_keep_to_seven_bits_with_a_scale_per_channel(fused, name):
    stored = RECIPES[name].apply(fused)
    kept = weights(stored, TensorProto.INT8)
    matrices = {
        key: numpy_helper.to_array(tensor)
        for key, tensor in kept.items()
        if len(tensor.dims) == 2 and "embeddings" not in key
    }
    assert matrices
    for key, matrix in matrices.items():
        assert np.abs(matrix.astype(int)).max() <= 64, key
        scales = weights(stored)[key.removesuffix("_quantized") + "_scale"]
        assert list(scales.dims) == [matrix.shape[1]], key


def test_the_mixed_recipe_keeps_what_reads_a_gelu_in_float(fused):
    def float_matmuls(model):
        return [node for node in model.graph.node if node.op_type == "MatMul"]

    plain, mixed = RECIPES["int8"].apply(fused), RECIPES["int8-mixed"].apply(fused)
    assert len(float_matmuls(mixed)) == len(float_matmuls(plain)) + 2, "one of each layer"
    outputs = {node.output[0] for node in mixed.graph.node if node.op_type == "BiasGelu"}
    assert sum(node.input[0] in outputs for node in float_matmuls(mixed)) == 2


def test_a_recipe_does_not_change_the_graph_that_it_is_given(fused_bytes):
    model = onnx.load_from_string(fused_bytes)
    before = model.SerializeToString()
    RECIPES["int8"].apply(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("spoil", [scale_spoiled, not_a_number])
@pytest.mark.parametrize("name", EIGHT_BIT)
def test_a_spoiled_recipe_is_refused_and_nothing_is_written(monkeypatch, tmp_path, tiny_checkpoint, name, spoil):
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], apply=spoil(RECIPES[name].apply)))
    with pytest.raises(GateError) as caught:
        build(tiny_checkpoint, tmp_path / "bundle", recipe=name)
    assert f"refused, nothing was written: {name}: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []
