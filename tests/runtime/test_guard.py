"""Graphs that reach outside of their file, or bring more than operators, are refused before onnxruntime parses them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jirgee.scorer
from jirgee.bundle import Bundle
from jirgee.errors import BundleError
from jirgee.guard import MESSAGES, check_graph
from jirgee.int8 import probe_model
from jirgee.scorer import Scorer
from jirgee.wire import BYTES, VARINT, WireError, field, fields


def problem(model: bytes) -> str:
    """The refusal's one line, "" if there is none."""
    try:
        check_graph(model, "here/model.onnx")
    except BundleError as error:
        text = str(error)
    else:
        return ""
    assert text.startswith("here/model.onnx: ")
    assert "\n" not in text
    return text


def refusal(model: bytes) -> str:
    text = problem(model)
    assert text
    return text


def graph_with(part: bytes) -> bytes:
    return field(1, 8) + field(7, part) + field(8, field(1, "") + field(2, 17))


def node_with(part: bytes) -> bytes:
    return graph_with(field(1, field(4, "Identity") + part))


OUTSIDE = field(8, "w") + field(13, field(1, "location") + field(2, "/etc/passwd"))
BAD = {
    "another domain": (field(8, field(1, "ai.onnx.contrib") + field(2, 1)) + probe_model(), "domain 'ai.onnx.contrib'"),
    "a node of another domain": (node_with(field(7, "com.evil")), "domain 'com.evil'"),
    "a domain that only begins like ours": (node_with(field(7, "com.microsoft.nchwc")), "domain 'com.microsoft.nchwc'"),
    "a domain that is not text": (node_with(field(7, b"\xff\xfe")), "domain"),
    "a node with two domains": (node_with(field(7, "x") + field(7, "")), "domain 'x'"),
    "compiled code": (graph_with(field(1, field(4, "EPContext") + field(7, "com.microsoft"))), "operator EPContext"),
    "an overloaded function": (node_with(field(8, "f")), "function"),
    "functions": (probe_model() + field(25, field(1, "f")), "functions"),
    "training": (probe_model() + field(20, b""), "training"),
    "weights in another file": (graph_with(field(5, OUTSIDE)), "another file"),
    "weights said to be in another file": (graph_with(field(5, field(14, 1))), "another file"),
    "the same in more bits than an enum has": (graph_with(field(5, field(14, (1 << 32) + 1))), "another file"),
    "a constant in another file": (node_with(field(5, field(5, OUTSIDE))), "another file"),
    "one of several constants": (node_with(field(5, field(10, OUTSIDE))), "another file"),
    "sparse weights": (graph_with(field(15, field(1, OUTSIDE))), "another file"),
    "a sparse constant's places": (node_with(field(5, field(22, field(2, OUTSIDE)))), "another file"),
    "control flow": (node_with(field(5, field(6, b""))), "a graph"),
    "branches": (node_with(field(5, field(11, b""))), "graphs"),
    "a second graph, which a parser merges": (probe_model() + field(7, field(5, OUTSIDE)), "another file"),
    "onnxruntime's own format": (field(2, "") + field(3, "ORTM")[:2] + b"ORTM" + probe_model(), "own format"),
    "a graph that is a number": (field(1, 8) + field(7, 5), "wire type"),
    "nothing": (b"", "no graph"),
    "only a version": (field(1, 8), "no graph"),
    "a group": (b"\x3b\x3c" + probe_model(), "wire type 3"),
    "field 0": (b"\x00\x00" + probe_model(), "field number 0"),
    "an endless number": (b"\x08" + b"\xff" * 12, "64 bits"),
    "text": (b"hello, world", "not an ONNX graph"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_graph_may_not_hold(name: str) -> None:
    model, words = BAD[name]
    assert words in refusal(model)


def outside(**entries: str) -> bytes:
    return graph_with(
        field(5, b"".join(field(13, field(1, k) + field(2, v)) for k, v in entries.items()) + field(14, 1))
    )


def test_a_graph_that_shares_the_data_of_the_file_beside_it() -> None:
    check_graph(outside(location="model.onnx", offset="12", length="4"), "x", beside="model.onnx")
    for entries in (
        {"location": "/etc/passwd"},
        {"location": "../model.onnx"},
        {"location": "model.onnx", "offset": "-1"},
        {"location": "model.onnx", "offset": ""},
        {"location": "model.onnx", "basepath": "/etc"},
    ):
        with pytest.raises(BundleError, match="another file"):
            check_graph(outside(**entries), "x", beside="model.onnx")
    for entry in (
        field(1, "location") + field(2, "model.onnx") + field(2, "/x"),
        field(1, "location"),
        b"",
        field(3, "x"),
    ):
        with pytest.raises(BundleError, match="another file"):
            check_graph(graph_with(field(5, field(13, entry))), "x", beside="model.onnx")
    assert "another file" in refusal(outside(location="model.onnx"))


def test_the_numbers_of_the_fields_are_those_of_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    of = {
        "model": (onnx.ModelProto, {7: "graph", 8: "opset_import", 20: "training_info", 25: "functions"}),
        "opset": (onnx.OperatorSetIdProto, {1: "domain"}),
        "graph": (onnx.GraphProto, {1: "node", 5: "initializer", 15: "sparse_initializer"}),
        "node": (onnx.NodeProto, {4: "op_type", 5: "attribute", 7: "domain", 8: "overload"}),
        "attribute": (
            onnx.AttributeProto,
            {5: "t", 6: "g", 10: "tensors", 11: "graphs", 22: "sparse_tensor", 23: "sparse_tensors"},
        ),
        "sparse tensor": (onnx.SparseTensorProto, {1: "values", 2: "indices"}),
        "tensor": (onnx.TensorProto, {13: "external_data", 14: "data_location"}),
    }
    assert of.keys() | {"where its data is"} == MESSAGES.keys()
    for kind, (proto, names) in of.items():
        rules = MESSAGES[kind]
        assert {*rules.parts, *rules.refused, *(rules.names or ()), *rules.numbers} == names.keys()
        assert {number: proto.DESCRIPTOR.fields_by_number[number].name for number in names} == names
        # Whatever else holds messages cannot hold a tensor, a graph or a node.
        inside = {"TensorProto", "GraphProto", "NodeProto", "SparseTensorProto", "FunctionProto", "TrainingInfoProto"}
        others = [f for f in proto.DESCRIPTOR.fields if f.message_type and f.number not in names]
        assert not [f.name for f in others if f.message_type.name in inside]


def test_what_onnx_itself_writes(tmp_path: Path) -> None:
    """The same refusals for files made by the onnx package, and a real exported graph passes."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(probe_model())
    onnx.checker.check_model(model, full_check=True)
    check_graph(model.SerializeToString(), "x")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert "another file" in refusal((tmp_path / "m.onnx").read_bytes())
    branch = onnx.helper.make_graph([], "g", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch))
    assert "a graph" in refusal(model.SerializeToString())


def test_a_real_bundle_passes(tiny_bundle: Path) -> None:
    check_graph((tiny_bundle / "model.onnx").read_bytes(), tiny_bundle)


@pytest.mark.parametrize("name", ["fake", "fake.jirgee"])
def test_a_bundle_whose_hashes_hold_but_whose_graph_leads_outside(
    make_bundle: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("jirgee.bundle.check_graph", lambda *args: None)
    path = make_bundle(name, model=graph_with(field(5, OUTSIDE))).path
    monkeypatch.undo()
    monkeypatch.setattr(jirgee.scorer, "open_session", lambda *args, **kwargs: pytest.fail("onnxruntime was asked"))
    with pytest.raises(BundleError, match=r"model\.onnx: holds data in another file"):
        Scorer.load(path, "cpu", 1)
    with pytest.raises(BundleError, match="do not trust where it came from"):
        Bundle.load(path)


# --- any bytes -----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    problem(data)  # nothing but a refusal may come of it


def test_flipped_bits_are_read_or_refused() -> None:
    whole, rng = probe_model(), random.Random(5)
    for bit in rng.sample(range(len(whole) * 8), 2000):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        problem(bytes(data))


@given(st.integers(1, (1 << 29) - 1), st.integers(0, (1 << 64) - 1), st.binary(max_size=300))
def test_what_field_writes_fields_reads(number: int, value: int, data: bytes) -> None:
    message = field(number, value) + field(number, data)
    found = [(n, kind, bytes(v) if isinstance(v, memoryview) else v) for n, kind, v in fields(memoryview(message))]
    assert found == [(number, VARINT, value), (number, BYTES, data)]
    with pytest.raises(WireError):
        list(fields(memoryview(message[:-1] if data else message[:-1] + b"\x05")))


def test_a_graph_of_too_many_fields_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jirgee.guard.MAX_FIELDS", 1000)
    assert "more than 1000 fields" in refusal(field(7, field(2, "g") * 2000))
