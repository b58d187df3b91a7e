"""Bundles are opened where they lie: the same scores, the tensors not in the bytes that onnxruntime gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jirgee.bundle import MODEL, Bundle, copy
from jirgee.errors import BundleError
from jirgee.guard import check_graph
from jirgee.mapped import check_unchanged, session_model, without_tensors
from jirgee.scorer import Scorer


@pytest.fixture
def packed(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return copy(Bundle.load(tiny_bundle), tmp_path / "tiny.jirgee")


def test_the_same_scores_to_the_last_bit(
    tiny_bundle: Path, packed: Bundle, texts: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with Scorer.load(tiny_bundle, "cpu", 1) as directory, Scorer.load("tiny.jirgee", "cpu", 1) as one_file:
        assert np.array_equal(directory.score(texts).probs, one_file.score(texts).probs)


@pytest.fixture(params=["a directory", "packed"])
def bundle(request: pytest.FixtureRequest, tiny_bundle: Path, packed: Bundle) -> Bundle:
    return packed if request.param == "packed" else Bundle.load(tiny_bundle)


def file_of(bundle: Bundle) -> Path:
    return bundle.path if bundle.path.is_file() else bundle.path / MODEL


def test_what_onnxruntime_gets(bundle: Bundle) -> None:
    graph, folder = session_model(bundle)
    assert isinstance(graph, bytes)
    assert folder == file_of(bundle).parent
    assert len(graph) < bundle.files[MODEL][0]
    check_graph(graph, "x", beside=file_of(bundle).name)
    with pytest.raises(BundleError, match="another file"):
        check_graph(graph, "x")


def test_each_tensor_is_where_the_graph_says(bundle: Bundle) -> None:
    onnx = pytest.importorskip("onnx")
    graph, _ = session_model(bundle)
    whole = {t.name: t for t in onnx.load_from_string(bundle.read(MODEL)).graph.initializer}
    moved = 0
    raw = file_of(bundle).read_bytes()
    for tensor in onnx.load_from_string(graph).graph.initializer:
        before = whole.pop(tensor.name)
        facts = {entry.key: entry.value for entry in tensor.external_data}
        if facts:
            moved += 1
            offset, length = int(facts["offset"]), int(facts["length"])
            assert facts["location"] == file_of(bundle).name
            assert raw[offset : offset + length] == before.raw_data
            assert offset % onnx.helper.tensor_dtype_to_np_dtype(before.data_type).itemsize == 0
            assert not tensor.HasField("raw_data")
            assert (tensor.dims, tensor.data_type) == (before.dims, before.data_type)
        else:
            assert tensor == before
    assert not whole
    assert moved > 0


def test_a_tensor_whose_place_no_kernel_may_read_stays_inside() -> None:
    onnx = pytest.importorskip("onnx")
    for kind, always in ((np.int8, True), (np.float32, False), (np.int64, False)):
        table = onnx.numpy_helper.from_array(np.zeros(8192, kind), "t")
        model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [table])).SerializeToString()
        moved = [len(without_tensors(memoryview(model), "f", start)) < 4096 for start in range(8)]
        assert all(moved) if always else sum(moved) == 8 // np.dtype(kind).itemsize


def test_a_packed_file_that_changed_since_it_was_loaded(packed: Bundle) -> None:
    other = copy(packed, packed.path.with_name("other.jirgee"))
    data = bytearray(other.path.read_bytes())
    start = bytes(data).find(packed.read(MODEL))
    data[start + 5000] ^= 1
    packed.path.write_bytes(data)
    with pytest.raises(BundleError):
        check_unchanged(packed)


def test_a_directory_that_changed_since_it_was_loaded(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copy(Bundle.load(tiny_bundle), tmp_path / "other")
    data = bytearray(file_of(bundle).read_bytes())
    data[5000] ^= 1
    file_of(bundle).write_bytes(data)
    for given in (check_unchanged, lambda bundle: Scorer.load(bundle, device="cpu")):
        with pytest.raises(BundleError, match="changed since the bundle was loaded"):
            given(bundle)


def test_a_fake_graph_goes_through_unchanged(make_bundle: Any) -> None:
    bundle = make_bundle("fake.jirgee")
    assert session_model(bundle)[0] == bundle.read(MODEL)
