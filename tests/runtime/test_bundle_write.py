"""Writing bundles: whole or not at all, and never over something by surprise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import jirgee.bundle
from jirgee.bundle import Bundle, check_free, write
from jirgee.errors import BundleError, InputError
from jirgee.int8 import probe_model

NAMES = ["fake", "fake.jirgee"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_only_the_bundle_appears(make_bundle: Any, tmp_path: Path, name: str) -> None:
    assert make_bundle(name).path == tmp_path / name
    assert names(tmp_path) == [name]


def test_parent_directories_are_made(make_bundle: Any, tmp_path: Path) -> None:
    make_bundle("deep/er/fake")
    assert Bundle.load(tmp_path / "deep/er/fake")


def test_others_may_read_the_directory(make_bundle: Any) -> None:
    assert make_bundle().path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_bundle_stays_without_overwrite(make_bundle: Any, tmp_path: Path, name: str) -> None:
    first = make_bundle(name)
    with pytest.raises(InputError, match=f"{name}: exists already; pass --overwrite"):
        make_bundle(name, labels=["other", "names"])
    assert Bundle.load(first.path) == first
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_overwrite_replaces(make_bundle: Any, tmp_path: Path, name: str) -> None:
    make_bundle(name)
    second = make_bundle(name, overwrite=True, labels=["other", "names"])
    assert Bundle.load(second.path).labels == ("other", "names")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("old", ["file", "directory", "link to a file", "link to a directory"])
def test_overwrite_replaces_whatever_is_there(make_bundle: Any, tmp_path: Path, name: str, old: str) -> None:
    place, target = tmp_path / name, tmp_path / "target"
    if "directory" in old:
        (target if "link" in old else place).mkdir()
        ((target if "link" in old else place) / "precious").write_text("data")
    else:
        (target if "link" in old else place).write_text("data")
    if "link" in old:
        place.symlink_to(target)
    with pytest.raises(InputError, match="exists already"):
        make_bundle(name)
    make_bundle(name, overwrite=True)
    assert not place.is_symlink()
    if "link" in old:
        assert target.is_dir() == ("directory" in old), "what the link pointed to is not ours"
        assert (target / "precious" if target.is_dir() else target).read_text() == "data"
        assert names(tmp_path) == sorted([name, "target"])
    else:
        assert names(tmp_path) == [name]


def test_an_empty_directory_is_free(make_bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    check_free(tmp_path / "fake", overwrite=False)
    make_bundle()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError):
        check_free(tmp_path / "full", overwrite=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", [{"labels": ["one"]}, {"temperature": -1.0}, {"max_tokens": "many"}, {"inputs": ["x"]}]
)
def test_a_bundle_that_would_not_load_is_not_written(
    make_bundle: Any, tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    with pytest.raises(BundleError):
        make_bundle(name, **change)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_source_that_cannot_be_read_leaves_nothing(make_bundle: Any, tmp_path: Path, name: str) -> None:
    bundle = make_bundle("good")
    fields = {key: getattr(bundle, key) for key in ("labels", "inputs", "tokenizer", "recipe", "safe_on", "max_tokens")}
    files: dict[str, bytes | Path] = {"model.onnx": probe_model(), "pieces.model": tmp_path / "absent"}
    with pytest.raises(OSError, match="absent"):
        write(tmp_path / name, files, temperature=1.0, ngram_weight=0.0, tolerance=0.0, provenance={}, **fields)
    assert names(tmp_path) == ["good"]


@pytest.mark.parametrize("bad", ["../outside", "sub/file", ".hidden", "manifest.json"])
def test_a_file_name_that_a_bundle_may_not_hold(make_bundle: Any, tmp_path: Path, bad: str) -> None:
    bundle = make_bundle("good")
    fields = {key: getattr(bundle, key) for key in ("labels", "inputs", "tokenizer", "recipe", "safe_on", "max_tokens")}
    files: dict[str, bytes | Path] = {"model.onnx": probe_model(), "pieces.model": b"y", bad: b"z"}
    with pytest.raises(BundleError, match="may not hold"):
        write(tmp_path / "fake", files, temperature=1.0, ngram_weight=0.0, tolerance=0.0, provenance={}, **fields)
    assert names(tmp_path) == ["good"]


@pytest.mark.parametrize("name", NAMES)
def test_a_failing_disk_keeps_the_old_bundle(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The rename that puts the new bundle in place fails."""
    first = make_bundle(name)
    rename, replace = os.rename, os.replace

    def failing(real: Any) -> Any:
        def call(source: Any, target: Any) -> None:
            if Path(target) == first.path and (tmp_path / name) != Path(source) and ".old." not in str(source):
                raise OSError(28, "No space left on device")
            real(source, target)

        return call

    monkeypatch.setattr("jirgee.bundle.os.rename", failing(rename))
    monkeypatch.setattr("jirgee.bundle.os.replace", failing(replace))
    with pytest.raises(OSError, match="No space left"):
        make_bundle(name, overwrite=True, labels=["other", "names"])
    monkeypatch.undo()
    assert Bundle.load(first.path) == first
    assert names(tmp_path) == [name]


def test_a_failure_halfway_leaves_nothing(make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jirgee.bundle, "pack", full)
    with pytest.raises(KeyboardInterrupt):
        make_bundle("fake.jirgee")
    assert names(tmp_path) == []
