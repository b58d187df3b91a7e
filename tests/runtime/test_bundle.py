"""Bundles: whatever is not exactly what was written is refused before onnxruntime sees a byte."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import jirgee.scorer
from jirgee.bundle import Bundle, hash_line
from jirgee.errors import BundleError
from jirgee.scorer import Scorer


@pytest.fixture(autouse=True)
def session_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: Any, **kwargs: Any) -> None:
        pytest.fail("onnxruntime was asked to open a bundle that should have been refused")

    monkeypatch.setattr(jirgee.scorer, "open_session", opened)


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        Scorer.load(path, "cpu", threads=1)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


FILES = ["manifest.json", "manifest.sha256", "model.onnx", "pieces.model", "report.json", "README.md"]


@pytest.mark.parametrize("name", ["fake", "fake.jirgee"])
def test_what_was_written_is_read(make_bundle: Any, name: str) -> None:
    bundle = make_bundle(name, labels=["үгүй", "тийм"], temperature=1.5, tolerance=0.01)
    assert bundle == Bundle.load(bundle.path)
    assert bundle.labels == ("үгүй", "тийм")
    assert (bundle.temperature, bundle.tolerance, bundle.max_tokens) == (1.5, 0.01, 16)
    assert set(bundle.files) == set(FILES[2:])
    assert bundle.size == sum(len(bundle.read(name)) for name in bundle.files)
    assert bundle.read("README.md").decode() == "# жиргээ\n"
    assert bundle.provenance == {"made by": "a test"}


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_lengthened_file_in_a_directory(make_bundle: Any, name: str) -> None:
    file = make_bundle().path / name
    whole = file.read_bytes()
    for length in {0, 1, len(whole) // 2, len(whole) - 1}:
        if length < len(whole):
            file.write_bytes(whole[:length])
            refused(file.parent)
    for more in (b"\0", b"\n", whole):
        file.write_bytes(whole + more)
        refused(file.parent)


def test_a_truncated_or_lengthened_packed_bundle(make_bundle: Any) -> None:
    file = make_bundle("fake.jirgee").path
    whole, rng = file.read_bytes(), random.Random(2)
    lengths = {0, 1, 70, 71, 72, len(whole) - 71, len(whole) - 1, *rng.sample(range(len(whole)), 100)}
    for length in lengths:
        file.write_bytes(whole[:length])
        refused(file)
    for more in (b"\0", whole, b"\0" * 71):
        file.write_bytes(whole + more)
        refused(file)
        file.write_bytes(more + whole)
        refused(file)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(make_bundle: Any, name: str) -> None:
    bundle = make_bundle()
    (bundle.path / name).unlink()
    assert name in refused(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_a_link_or_a_directory_in_the_place_of_a_file(make_bundle: Any, tmp_path: Path, name: str) -> None:
    file = make_bundle().path / name
    shutil.move(file, tmp_path / "outside")
    file.symlink_to(tmp_path / "outside")
    assert "is a link" in refused(file.parent)
    file.unlink()
    file.mkdir()
    refused(file.parent)


def test_further_files_in_a_directory_are_never_read(make_bundle: Any) -> None:
    bundle = make_bundle()
    (bundle.path / "notes.pkl").write_bytes(b"cos\nsystem\n")
    assert "notes.pkl" not in Bundle.load(bundle.path).files


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    assert "jirgee export" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    (tmp_path / "text").write_text("hello")
    refused(tmp_path / "text")
    refused(tmp_path / ("x" * 300))


def test_a_file_changed_after_loading(make_bundle: Any) -> None:
    bundle = make_bundle()
    flip(bundle.path / "pieces.model", 7)
    with pytest.raises(BundleError, match=r"pieces\.model changed since"):
        bundle.read("pieces.model")


# --- a manifest whose hash holds, but whose author is not to be trusted ---------------------------------------------


def rewrite(bundle: Bundle, raw: bytes) -> Path:
    (bundle.path / "manifest.json").write_bytes(raw)
    (bundle.path / "manifest.sha256").write_bytes(hash_line(raw))
    return bundle.path


def edit(bundle: Bundle, **changes: Any) -> Path:
    import json

    data = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    return rewrite(bundle, json.dumps(data | changes).encode())


@pytest.mark.parametrize("version", [0, 2, 99, "1", None, 1.5])
def test_another_format_version(make_bundle: Any, version: Any) -> None:
    assert "reads version 1" in refused(edit(make_bundle(), version=version))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": []},
        {"labels": ["one"]},
        {"labels": ["a", "a"]},
        {"labels": ["a", 1]},
        {"labels": [["a"], ["b"]]},
        {"labels": "ab"},
        {"labels": None},
        {"labels": ["a", ""]},
        {"inputs": []},
        {"inputs": ["attention_mask"]},
        {"inputs": ["input_ids", "input_ids"]},
        {"inputs": ["input_ids", "secret"]},
        {"max_tokens": "16"},
        {"max_tokens": 0},
        {"max_tokens": -5},
        {"max_tokens": True},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": "1.0"},
        {"temperature": True},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 10**400},
        {"tolerance": 2},
        {"tolerance": "0"},
        {"tolerance": -0.1},
        {"recipe": 7},
        {"safe_on": "everything"},
        {"safe_on": None},
        {"provenance": "me"},
        {"format": "other"},
        {"tokenizer": None},
        {"tokenizer": "sentencepiece"},
        {"tokenizer": {"kind": "python", "file": "evil.py"}},
        {"files": None},
        {"files": {}},
        {"files": {"model.onnx": [5, "00"]}},
        {"files": {"model.onnx": {"size": -1, "sha256": ""}}},
        {"files": {"model.onnx": {"size": True, "sha256": ""}}},
    ],
)
def test_a_manifest_out_of_its_range(make_bundle: Any, change: dict[str, Any]) -> None:
    refused(edit(make_bundle(), **change))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b"\xff", b"{", b"[" * 100_000, b'{"format":' * 10_000])
def test_a_manifest_that_is_not_one(make_bundle: Any, raw: bytes) -> None:
    refused(rewrite(make_bundle(), raw))


def test_a_huge_manifest_is_not_read(make_bundle: Any) -> None:
    refused(rewrite(make_bundle(), b" " * (2 << 20)))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", ".hidden", "a/b", "a\\b", "a\0b", "x\n"])
def test_a_name_that_leaves_the_bundle(make_bundle: Any, tmp_path: Path, name: str) -> None:
    import hashlib

    (tmp_path / "secret").write_bytes(b"secret")
    bundle = make_bundle()
    files = {key: {"size": size, "sha256": sha256} for key, (size, sha256) in bundle.files.items()}
    files[name] = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    assert "may not hold" in refused(edit(bundle, files=files))


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_a_manifest_that_lists_itself(make_bundle: Any, name: str) -> None:
    bundle = make_bundle()
    files = {key: {"size": size, "sha256": sha256} for key, (size, sha256) in bundle.files.items()}
    refused(edit(bundle, files=files | {name: {"size": 1, "sha256": "00"}}))
