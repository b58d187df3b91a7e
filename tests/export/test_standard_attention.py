"""ONNX's own Attention gives what MultiHeadAttention gave, padding or not; what is not recognised stays."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from jirgee_export import lower as lowering
from jirgee_export.graph_source import Source
from jirgee_export.lower import lower
from jirgee_export.opset import NEWEST, opset_of, raise_opset
from jirgee_export.optimise import count_operators, optimise
from jirgee_export.quantise import RECIPES
from jirgee_export.standard_attention import use_standard_attention

from .conftest import random_batch, run_graph

BATCHES = [(1, 1), (1, 48), (9, 17), (2, 47), (13, 30)]


def both(monkeypatch: pytest.MonkeyPatch, recipe: str, source):
    """The lowered graph without and with the rewrite."""
    stored = RECIPES[recipe].apply(source)
    with monkeypatch.context() as patch:
        patch.setattr(lowering, "use_standard_attention", lambda model: None)
        before = lower(stored)
    return before, lower(stored)


@pytest.mark.parametrize("recipe", ["int8", "int8-batch", "int8-block", "int4"])
@pytest.mark.parametrize(("rows", "width"), BATCHES)
def test_the_scores_stay(monkeypatch, source, recipe, rows, width):
    before, after = both(monkeypatch, recipe, source)
    counts = count_operators(after)
    assert count_operators(before)["MultiHeadAttention"] == counts["Attention"] == 1, "of the layer before the last"
    assert not counts.keys() & {"MultiHeadAttention"}
    ids, mask = random_batch(rows, width)
    assert np.abs(run_graph(before, ids, mask) - run_graph(after, ids, mask)).max() < 1e-5


@pytest.fixture(scope="module")
def whole_source(plain_graph, tiny_model, tiny_checkpoint, sample_texts):
    """As recipes without ``one_query`` are made: the last attention still reads and asks every token."""

    from .conftest import calibration_on

    return Source(
        optimise(plain_graph, tiny_model.config, one_query=False), calibration_on(tiny_checkpoint, sample_texts)
    )


@pytest.mark.parametrize(("rows", "width"), BATCHES)
def test_the_last_layer_asks_for_its_first_token_alone(monkeypatch, whole_source, rows, width):
    before, after = both(monkeypatch, "int8-static", whole_source)
    assert count_operators(after)["Attention"] == 2
    last = [node for node in after.graph.node if node.op_type == "Attention"][-1]
    ids, mask = random_batch(rows, width)
    assert np.abs(run_graph(before, ids, mask) - run_graph(after, ids, mask)).max() < 1e-4
    made = {name: node for node in after.graph.node for name in node.output}
    queries = made[made[last.input[0]].input[0]]
    assert queries.op_type == "Gather"
    assert last.input[3] == "attention_sees_row"


def test_padding_is_not_seen(monkeypatch, whole_source):
    """To the last bit: a static recipe's scores do not depend on batch-mates."""
    _, model = both(monkeypatch, "int8-static", whole_source)
    ids, mask = random_batch(1, 20)
    alone = run_graph(model, ids, mask)
    for width in range(21, 49):
        wide = [np.concatenate([part, np.full((1, width - 20), fill)], axis=1) for part, fill in ((ids, 3), (mask, 0))]
        assert np.array_equal(run_graph(model, *[part.astype(ids.dtype) for part in wide]), alone), width


def test_another_mask_or_an_unknown_operator_is_left_alone(monkeypatch, source):
    asked, _ = both(monkeypatch, "int8-batch", source)
    for node in asked.graph.node:
        if node.op_type == "MultiHeadAttention":
            node.input[4] = node.input[0]
    kept = asked.SerializeToString()
    use_standard_attention(asked)
    assert asked.SerializeToString() == kept

    before, _ = both(monkeypatch, "int8-batch", source)
    for node in before.graph.node:
        if node.op_type == "FastGelu":
            node.op_type, node.domain = "Hardmax", ""
    kept = before.SerializeToString()
    use_standard_attention(before)
    assert before.SerializeToString() == kept


def test_raising_the_opset_moves_axes_and_refuses_what_it_does_not_know():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)],
        "peak",
        [value("x", TensorProto.FLOAT, [2, 3])],
        [value("y", TensorProto.FLOAT, [2, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    raise_opset(model, NEWEST)
    assert opset_of(model) == NEWEST
    assert model.ir_version >= 11
    [node] = model.graph.node
    assert not [a for a in node.attribute if a.name == "axes"]
    assert len(node.input) == 2
    raise_opset(model, 18)
    assert opset_of(model) == NEWEST, "never lowered"

    model.opset_import[0].version = 17
    node.op_type = "Hardmax"
    with pytest.raises(ValueError, match="Hardmax"):
        raise_opset(model, NEWEST)
