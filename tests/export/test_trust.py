"""What users were burnt by elsewhere: saturating sums, corrupted scales, scores that depend on batch-mates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from jirgee.errors import GateError
from jirgee.scorer import Scorer
from jirgee_export.build import build
from jirgee_export.quantise import RECIPES
from jirgee_export.verify import Limits

from .conftest import scale_spoiled

LENIENT = Limits(max_drop=100, max_flips=100, max_batch_effect=1)
STRICT = Limits(max_drop=0.5, max_flips=1)


def saturating(model: ModelProto) -> ModelProto:
    """The graph as a CPU without 8-bit dot products computes it: each MatMulIntegerToFloat adds pairs of u8 x s8
    products in 16 bits, saturating (VPMADDUBSW), and the pairs in 32.
    """
    result = ModelProto()
    result.CopyFrom(model)
    tables = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "MatMulIntegerToFloat":
            nodes.append(node)
            continue
        x, weights, scale, weight_scale, zero = node.input[:5]
        bias = tables[node.input[6]] if len(node.input) > 6 and node.input[6] else np.float32(0)
        matrix = tables[weights].astype(np.float32)
        name = node.name
        constants = {
            "low": np.float32(-32768),
            "high": np.float32(32767),
            "middle": tables[zero].astype(np.float32) * matrix.sum(axis=0),
            "scale": tables[scale] * tables[weight_scale],
            "bias": np.asarray(bias, np.float32),
        }
        result.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), f"{name}_sat_{key}") for key, value in constants.items()
        )

        def step(kind: str, given: list[str], out: str, name: str = name, **more: Any) -> str:
            nodes.append(helper.make_node(kind, given, [f"{name}_sat_{out}"], **more))
            return f"{name}_sat_{out}"

        wide = step("Cast", [x], "float", to=1)
        last = step("Unsqueeze", [wide, _axis(result, name)], "column")  # [..., inputs, 1]
        even, odd = (
            step("Mul", [step("Slice", [last, *_every(result, name, place)], f"x{place}"), w], f"p{place}")
            for place, w in enumerate(_halves(result, name, matrix))
        )
        pair = step("Clip", [step("Add", [even, odd], "pair"), f"{name}_sat_low", f"{name}_sat_high"], "cut")
        total = step("ReduceSum", [pair, f"{name}_sat_from"], "sum", keepdims=0)
        scaled = step("Mul", [step("Sub", [total, f"{name}_sat_middle"], "centred"), f"{name}_sat_scale"], "scaled")
        nodes.append(helper.make_node("Add", [scaled, f"{name}_sat_bias"], list(node.output)))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _axis(model: ModelProto, name: str) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), f"{name}_sat_axis"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-2], np.int64), f"{name}_sat_from"))
    return f"{name}_sat_axis"


def _every(model: ModelProto, name: str, place: int) -> list[str]:
    """Start, end, axis and step that take every second input from ``place`` on."""
    names = [f"{name}_sat_slice{place}_{part}" for part in range(4)]
    for tensor, value in zip(names, (place, 1 << 30, -2, 2), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), tensor))
    return names


def _halves(model: ModelProto, name: str, matrix: np.ndarray) -> list[str]:
    names = [f"{name}_sat_half{place}" for place in (0, 1)]
    for place, tensor in enumerate(names):
        half = np.ascontiguousarray(matrix[place::2])
        model.graph.initializer.append(numpy_helper.from_array(half, tensor))
    return names


def on_old_cpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """``name`` gives what it would give where sums saturate."""
    apply = RECIPES[name].apply
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], apply=lambda source: saturating(apply(source))))
    monkeypatch.setattr("jirgee_export.quantise.probe", lambda: "exact")  # somebody does not look


def test_full_range_weights_where_sums_saturate_are_refused(monkeypatch, tmp_path, tiny_checkpoint, samples):
    on_old_cpu(monkeypatch, "int8-full")
    with pytest.raises(GateError, match=r"refused, nothing was written: int8-full: .*--max-flips"):
        build(tiny_checkpoint, tmp_path / "bundle", "int8-full", samples / "dev.tsv", STRICT)
    assert list(tmp_path.iterdir()) == []


def test_seven_bit_weights_lose_nothing_there(monkeypatch, tmp_path, tiny_checkpoint):
    plain = build(tiny_checkpoint, tmp_path / "plain", "int8", limits=LENIENT).tried["int8"].comparison
    on_old_cpu(monkeypatch, "int8")
    there = build(tiny_checkpoint, tmp_path / "there", "int8", limits=LENIENT).tried["int8"].comparison
    assert there.mean_change == pytest.approx(plain.mean_change, abs=1e-3)  # GELU by erf there, by tanh here


def test_a_corrupted_scale_is_refused(monkeypatch, tmp_path, tiny_checkpoint, samples):
    monkeypatch.setitem(
        RECIPES, "int8-static", replace(RECIPES["int8-static"], apply=scale_spoiled(RECIPES["int8-static"].apply))
    )
    with pytest.raises(GateError, match="--max-flips"):
        build(tiny_checkpoint, tmp_path / "bundle", "int8-static", samples / "dev.tsv", STRICT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("recipe", "most"), [("int8-static", 0.0), ("int8", 1e-5)])
def test_scores_are_bit_identical_alone_in_any_batch_order_and_thread_count(
    tmp_path, tiny_checkpoint, sample_texts, recipe, most
):
    bundle = build(tiny_checkpoint, tmp_path / "bundle", recipe, limits=LENIENT).bundle
    texts = list(dict.fromkeys(sample_texts))[:500]
    with Scorer.load(bundle, "cpu", threads=1) as one, Scorer.load(bundle, "cpu", threads=3) as three:
        expected = one.score(texts).probs
        assert len(np.unique(expected[:, 0])) > 100, "the texts' scores differ"
        rng = np.random.default_rng(1)
        for budget in (1, 100, 512, 1 << 20):
            three.token_budget = budget
            order = rng.permutation(len(texts))
            found = three.score([texts[i] for i in order]).probs
            assert np.abs(found - expected[order]).max() <= most, budget
