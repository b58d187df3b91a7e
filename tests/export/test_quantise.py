"""Every row of RECIPES runs, keeps what it promises, and is stopped by the gate when it is spoiled."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from jirgee.errors import GateError, MachineError
from jirgee_export.build import build
from jirgee_export.cli import RECIPE_NAMES
from jirgee_export.graph import load_model
from jirgee_export.graph_source import Source
from jirgee_export.quantise import RECIPES

from .conftest import calibration_on, fuse, not_a_number, random_batch, run_graph, run_torch, scale_spoiled

EIGHT_BIT = [name for name in RECIPES if name.startswith("int8")]
SEVEN_BIT = [name for name in EIGHT_BIT if "7-bit" in RECIPES[name].why]
SUMMED_IN_16_BITS = [name for name in EIGHT_BIT if RECIPES[name].safe_on == "int8_dot"]
NEAR = {"fp32": 1e-5, "fp16": 2e-3, "int4": 0.1}


@pytest.fixture(scope="module")
def learned(trained, tmp_path_factory, sample_texts):
    """(model in PyTorch, source of recipes, ids and mask of texts that calibration has not seen): of a trained model,
    because one of large random weights is as sensitive to a rounding as to another text."""
    model = load_model(trained.out)
    fused = fuse(model, tmp_path_factory.mktemp("learned") / "graph.onnx")
    unseen = calibration_on(trained.out, sample_texts[100:160])
    lengths = unseen.encoded.lengths
    texts = unseen.encoded.padded(np.arange(len(lengths)), int(lengths.max()), unseen.pad_id)
    return model, Source(fused, calibration_on(trained.out, sample_texts[:40])), texts


def weights(model, *kinds):
    return {t.name: t for t in model.graph.initializer if not kinds or t.data_type in kinds}


def test_the_command_line_offers_auto_and_every_row():
    assert ("auto", *RECIPES) == RECIPE_NAMES


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_runs_and_stays_near_the_checkpoint(learned, name):
    model, source, texts = learned
    stored = RECIPES[name].apply(source)
    for ids, mask in (random_batch(16, 24), texts):
        assert np.abs(run_graph(stored, ids, mask) - run_torch(model, ids, mask)).mean() < NEAR.get(name, 0.02)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "fp16"])
def test_the_head_stays_float(source, name):
    stored = RECIPES[name].apply(source)
    heads = [node for node in stored.graph.node if node.op_type == "Gemm"]
    floats = weights(stored, TensorProto.FLOAT)
    assert [node.input[1] in floats for node in heads] == [True, True], "pooler and classifier"


@pytest.mark.parametrize("name", SEVEN_BIT)
def test_weights_for_sums_in_16_bits_keep_to_seven_bits_with_a_scale_per_channel(source, name):
    stored = RECIPES[name].apply(source)
    kept = weights(stored, TensorProto.INT8)
    matrices = {key: numpy_helper.to_array(tensor) for key, tensor in kept.items() if len(tensor.dims) == 2}
    assert matrices
    for key, matrix in matrices.items():
        steps = matrix.astype(int)
        assert np.abs(steps).max() <= 64, key
        assert (255 * np.abs(steps[0::2] + steps[1::2])).max() <= 32767, "a pair of products must fit 16 bits"
        scale = weights(stored)[key.removesuffix("_weights") + "_scale"]
        assert list(scale.dims) == [matrix.shape[1]], key


@pytest.mark.parametrize("name", SUMMED_IN_16_BITS)
def test_full_range_weights_are_for_32_bit_sums_only(source, name):
    steps = [numpy_helper.to_array(t) for t in weights(RECIPES[name].apply(source), TensorProto.INT8).values()]
    assert max(int(np.abs(part.astype(int)).max()) for part in steps) == 127


@pytest.mark.parametrize("name", SUMMED_IN_16_BITS)
def test_what_cannot_be_verified_here_is_not_made_here(monkeypatch, tmp_path, tiny_checkpoint, name):
    monkeypatch.setattr("jirgee_export.quantise.probe", lambda: "saturating")
    with pytest.raises(MachineError, match=r"32 bits.*cannot be verified here"):
        build(tiny_checkpoint, tmp_path / "bundle", recipe=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_says_where_it_is_safe_and_why(name):
    row = RECIPES[name]
    assert row.safe_on in ("any", "int8_dot")
    assert row.why
    assert row.about


def test_recipes_do_not_change_the_graph_that_they_start_from(source):
    before = source.fused.SerializeToString()
    for name in RECIPES:
        RECIPES[name].apply(source)
    assert source.fused.SerializeToString() == before


def test_fewer_bits_are_smaller(tmp_path, tiny_model, calibration):
    """Four layers of 64: of two of 32 the last attention, which stays float, and the names of the nodes are most."""
    config = deepcopy(tiny_model.config)
    config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4})
    model = type(tiny_model)(config).eval()
    source = Source(fuse(model, tmp_path / "graph.onnx"), calibration)
    stored = {name: len(RECIPES[name].apply(source).SerializeToString()) for name in ("int4", "int8", "fp16", "fp32")}
    assert stored["int4"] < stored["int8"] < stored["fp16"] < stored["fp32"], stored


def test_a_large_table_is_stored_in_few_bits(source):
    gathers = [n for n in RECIPES["int8"].apply(source).graph.node if n.op_type == "GatherBlockQuantized"]
    assert len(gathers) == 1, "600 rows of 32 are most of the tiny model"


@pytest.mark.parametrize("spoil", [scale_spoiled, not_a_number])
@pytest.mark.parametrize("name", ["int8", "int8-static"])
def test_a_spoiled_recipe_is_refused_and_nothing_is_written(monkeypatch, tmp_path, tiny_checkpoint, name, spoil):
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], apply=spoil(RECIPES[name].apply)))
    with pytest.raises(GateError) as caught:
        build(tiny_checkpoint, tmp_path / "bundle", recipe=name)
    assert f"refused, nothing was written: {name}: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []
