"""The attention graph: the heads of transformers, no weight twice, and what it cannot be made of is refused."""

from base64 import b64decode

import numpy as np
import onnx
import pytest

from jirgee.bundle import ATTENTION, MODEL, Bundle
from jirgee.cli import main
from jirgee.errors import GateError
from jirgee.explain import explain, units
from jirgee.heads import Heads
from jirgee.scorer import Scorer
from jirgee_export.attention import attention_graph

from .conftest import random_batch


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, tiny_checkpoint):
    """Recipe and form -> the tiny checkpoint exported with attention."""
    made = {}
    for recipe, name in (("fp32", "fp32"), ("int8", "int8"), ("int8", "int8.jirgee")):
        out = tmp_path_factory.mktemp("attention") / name
        words = ["export", tiny_checkpoint, "-o", out, "--recipe", recipe, "--with-attention", "--quiet"]
        assert main([*map(str, words), "--max-flips", "100", "--max-drop", "100"]) == 0
        made[name] = Bundle.load(out)
    return made


def reference(model, ids: np.ndarray) -> np.ndarray:
    """float32 [layers, heads, w, w] by transformers' ``output_attentions``."""
    import torch

    with torch.inference_mode():
        found = model(input_ids=torch.from_numpy(ids[None]).long(), output_attentions=True).attentions
    return torch.cat(found).numpy()


@pytest.mark.parametrize(("name", "most"), [("fp32", 1e-5), ("int8", 0.1), ("int8.jirgee", 0.1)])
def test_the_heads_are_those_of_transformers(bundles, tiny_model, name, most):
    heads = Heads.of(bundles[name])
    assert heads
    for width in (1, 7, 40):
        ids = random_batch(1, width, seed=width)[0][0]
        found, expected = heads(ids), reference(tiny_model, ids)
        assert found.shape == expected.shape == (2, 2, width, width)
        assert np.abs(found - expected).max() < most
        assert np.abs(found.sum(axis=-1) - 1).max() < 1e-5


def test_weights_are_not_stored_twice(bundles):
    for bundle in bundles.values():
        graph = onnx.load_from_string(bundle.read(ATTENTION)).graph
        outside = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert len(outside) >= 6
        assert {e.value for t in outside for e in t.external_data if e.key == "location"} == {MODEL}
        assert max(len(t.raw_data) for t in graph.initializer) < 1024
        assert bundle.files[ATTENTION][0] < bundle.files[MODEL][0] / 3


def test_an_explanation_has_the_heads_by_piece(bundles, texts):
    """Tokens that show nothing go with the piece that shows: seen as much as all, looking as they do on average."""
    with Scorer.load(bundles["fp32"], "cpu", threads=1) as scorer:
        for text in (texts[0], "㎏ ℌ нэг  𝓗 хоёр"):
            found = explain(scorer, text)
            packed, parts = found["attention"], units(scorer.tokenizer, text)
            assert (packed["layers"], packed["heads"], packed["before"], packed["after"]) == (2, 2, 1, 1)
            count = 2 + len(parts)
            weights = np.frombuffer(b64decode(packed["weights"]), np.uint8).reshape(2, 2, count, count) / 255
            assert scorer.heads
            heads = scorer.heads(scorer.tokenizer.encode([text]).ids)
            spans = [(0, 1), *((part.first, part.last) for part in parts), (heads.shape[-1] - 1, heads.shape[-1])]
            for row, (first, last) in enumerate(spans):
                for column, (start, stop) in enumerate(spans):
                    expected = heads[:, :, first:last, start:stop].sum(axis=3).mean(axis=2)
                    assert np.abs(weights[:, :, row, column] - expected).max() < 0.003
        assert len(parts) < heads.shape[-1] - 2, "nothing was merged"


def test_a_bundle_has_no_heads_unless_asked(tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    assert ATTENTION not in bundle.files
    assert Heads.of(bundle) is None


def test_a_graph_without_its_attention_operators_is_refused(bundles, plain_graph):
    with pytest.raises(GateError, match=r"2 attention operators for 3 layers"):
        attention_graph(bundles["fp32"].read(MODEL), 3)
    with pytest.raises(GateError, match=r"0 attention operators for 2 layers"):
        attention_graph(plain_graph.read_bytes(), 2)


def test_the_graph_cannot_point_out_of_its_bundle(bundles, tmp_path):
    """onnxruntime itself refuses a path that leaves the folder."""
    from jirgee.errors import BundleError
    from jirgee.providers import open_session

    (tmp_path / "in").mkdir()
    (tmp_path / MODEL).write_bytes(bundles["fp32"].read(MODEL))
    graph = onnx.load_from_string(bundles["fp32"].read(ATTENTION))
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"../{MODEL}"
    (tmp_path / "in" / ATTENTION).write_bytes(graph.SerializeToString())
    with pytest.raises(BundleError, match="cannot run this model"):
        open_session(str(tmp_path / "in" / ATTENTION), "cpu", 1)
