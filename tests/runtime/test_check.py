"""``jirgee check``: passes where scores are those of the export, says why where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jirgee.check
from jirgee.bundle import GOLDEN, Bundle, write
from jirgee.check import check
from jirgee.cli import main
from jirgee.errors import BundleError
from jirgee.golden import Golden


def rewritten(source: Path, out: Path, files: dict[str, bytes | Path | None], **changes: Any) -> Path:
    """The bundle at ``source`` with other files (None: without one) and fields, its hashes right again."""
    bundle = Bundle.load(source)
    given: dict[str, bytes | Path] = {name: source / name for name in bundle.files}
    for name, content in files.items():
        given.pop(name, None)
        if content is not None:
            given[name] = content
    return write(out, given, **bundle.facts | changes).path


@pytest.fixture
def spoiled(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle with stored scores that it does not give."""
    golden = Golden.read(Bundle.load(tiny_bundle))
    assert golden
    wrong = Golden(golden.source, golden.texts, golden.probs[:, ::-1])
    return rewritten(tiny_bundle, tmp_path / "spoiled", {GOLDEN: wrong.to_bytes()})


def test_a_bundle_checked_where_it_was_made(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny_bundle)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "verdict       scores here equal those at export" in out
    assert "32 (random pieces): 32 score the same to the last bit" in out
    assert main(["check", str(tiny_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert found["golden"] == {
        "source": "random pieces", "texts": 32, "identical": 32, "flips": 0, "max_change": 0.0, "limit": 0.01
    }  # fmt: skip
    assert found["here"] == found["verified_on"]
    assert found["files"] == len(Bundle.load(tiny_bundle).files) + 2


def test_other_scores_fail(spoiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(spoiled)]) == 1
    out, err = capsys.readouterr()
    assert "NOT TO BE TRUSTED HERE" in out
    assert err.count("\n") == 1
    assert "a golden text's probability differs by" in err
    assert main(["check", str(spoiled), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["passed"]
    assert found["golden"]["flips"] > 0
    assert main(["check", str(spoiled), "--limit", "1"]) == 0


def test_a_changed_weight_fails(tiny_bundle: Path, tmp_path: Path) -> None:
    """A model that is not the one that was verified, with hashes that hold."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_bundle / "model.onnx")
    for tensor in model.graph.initializer:
        if "classifier" in tensor.name and "weight" in tensor.name:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values * 1.5), tensor.name))
    path = rewritten(tiny_bundle, tmp_path / "other", {"model.onnx": model.SerializeToString()})
    found = check(path)
    assert not found["passed"]
    assert found["golden"]["max_change"] > 0.01


def test_a_bundle_without_golden_texts_cannot_pass(tiny_bundle: Path, tmp_path: Path) -> None:
    found = check(rewritten(tiny_bundle, tmp_path / "bare", {GOLDEN: None}))
    assert found["golden"] is None
    assert not found["passed"]
    assert "no golden texts" in found["problems"][0]


@pytest.mark.parametrize(("arithmetic", "safe_on", "passes"), [
    ("exact", "int8_dot", True),
    ("saturating", "int8_dot", False),
    ("unknown", "int8_dot", False),
    ("saturating", "any", True),
])  # fmt: skip
def test_8_bit_arithmetic_that_the_recipe_needs(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arithmetic: str, safe_on: str, passes: bool
) -> None:
    monkeypatch.setattr(jirgee.check, "probe", lambda: arithmetic)
    monkeypatch.setattr("jirgee.scorer.probe", lambda: "exact")
    found = check(rewritten(tiny_bundle, tmp_path / "b", {}, safe_on=safe_on))
    assert found["passed"] == passes
    assert bool(found["problems"]) != passes
    if not passes:
        assert f"8-bit sums are {arithmetic} on this CPU" in found["problems"][0]


def test_a_damaged_bundle_is_one_line(make_bundle: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle()
    (bundle.path / "pieces.model").write_bytes(b"other")
    assert main(["check", str(bundle.path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pieces.model" in err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"source": "x", "texts": [], "probs": []}',
        b'{"source": "x", "texts": ["a"], "probs": [[0.5]]}',
        b'{"source": "x", "texts": ["a"], "probs": [[0.5, 0.5], [0.5, 0.5]]}',
        b'{"source": "x", "texts": ["a"], "probs": [[NaN, 0.5]]}',
        b'{"source": "x", "texts": [1], "probs": [[0.5, 0.5]]}',
        b'{"source": 1, "texts": ["a"], "probs": [[0.5, 0.5]]}',
        b'{"source": "x", "texts": ["a"], "probs": "many"}',
        b"[" * 100_000,
    ],
)
def test_golden_texts_that_are_none(tiny_bundle: Path, tmp_path: Path, content: bytes) -> None:
    path = rewritten(tiny_bundle, tmp_path / "b", {GOLDEN: content})
    with pytest.raises(BundleError, match=r"golden\.json is not texts with their scores"):
        check(path)


def test_texts_survive_the_file_whatever_they_hold(tiny_bundle: Path, tmp_path: Path) -> None:
    texts = ("сайн уу", "half \ud83d an emoji", 'line\nbreak "quoted"', "\x00", "")
    probs = np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)
    path = rewritten(tiny_bundle, tmp_path / "b", {GOLDEN: Golden("here", texts, probs).to_bytes()})
    again = Golden.read(Bundle.load(path))
    assert again
    assert again.texts == texts
    assert np.array_equal(again.probs, probs)


@pytest.mark.parametrize("limit", ["-1", "2", "much"])
def test_a_limit_that_is_none(tiny_bundle: Path, limit: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(tiny_bundle), "--limit", limit])
    assert stopped.value.code == 2
