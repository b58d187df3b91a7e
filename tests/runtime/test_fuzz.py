"""Manifests and containers by a hostile hand, whose hashes and seals hold: loaded or refused, there is no third."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jirgee.bundle import Bundle, hash_line
from jirgee.container import SEAL, SEAL_LENGTH
from jirgee.errors import BundleError

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**400, -(10**400)])
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(["../x", "a/b", "model.onnx", "lower", "\ud800", "any", "input_ids"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(data: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value."""
    found = [path]
    if isinstance(data, dict):
        for key, value in data.items():
            found += places(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            found += places(value, (*path, index))
    return found


def with_change(data: Any, path: tuple, value: Any, remove: bool) -> Any:
    if not path:
        return value
    copied = dict(data) if isinstance(data, dict) else list(data)
    if len(path) == 1 and remove:
        del copied[path[0]]
    else:
        copied[path[0]] = with_change(copied[path[0]], path[1:], value, remove)
    return copied


def loaded_or_refused(path: Path) -> Bundle | None:
    try:
        bundle = Bundle.load(path)
    except BundleError as error:
        text = str(error)
    else:
        assert len(bundle.labels) >= 2
        assert len(set(bundle.labels)) == len(bundle.labels)
        assert bundle.max_tokens > 0
        assert 0 < bundle.temperature < float("inf")
        assert all(name == Path(name).name and not name.startswith(".") for name in bundle.files)
        json.dumps(bundle.labels, ensure_ascii=False).encode()
        return bundle
    assert "\n" not in text
    assert len(text) < 600 + len(str(path)) * 2
    return None


@FUZZ
@given(data=st.data())
def test_a_manifest_with_anything_anywhere(make_bundle: Any, data: st.DataObject) -> None:
    bundle = make_bundle(overwrite=True)
    manifest = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(manifest)))
        manifest = with_change(manifest, path, data.draw(JSON), data.draw(st.booleans()))
    raw = json.dumps(manifest).encode()
    (bundle.path / "manifest.json").write_bytes(raw)
    (bundle.path / "manifest.sha256").write_bytes(hash_line(raw))
    loaded_or_refused(bundle.path)


@FUZZ
@given(raw=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_manifest_of_any_bytes(make_bundle: Any, raw: bytes) -> None:
    bundle = make_bundle(overwrite=True)
    (bundle.path / "manifest.json").write_bytes(raw)
    (bundle.path / "manifest.sha256").write_bytes(hash_line(raw))
    assert loaded_or_refused(bundle.path) is None


@pytest.mark.parametrize("key", ["labels", "temperature", "files", "format"])
def test_a_key_that_is_there_twice(make_bundle: Any, key: str) -> None:
    bundle = make_bundle()
    raw = (bundle.path / "manifest.json").read_bytes()
    value = json.dumps(json.loads(raw)[key])
    raw = raw.rstrip()[:-1].rstrip() + f',\n "{key}": {value}\n}}\n'.encode()
    (bundle.path / "manifest.json").write_bytes(raw)
    (bundle.path / "manifest.sha256").write_bytes(hash_line(raw))
    with pytest.raises(BundleError, match="a key is there twice"):
        Bundle.load(bundle.path)


def sealed(path: Path, body: bytes) -> Path:
    path.write_bytes(body + SEAL + hashlib.sha256(body).hexdigest().encode())
    return path


@FUZZ
@given(data=st.data())
def test_an_archive_with_anything_anywhere(make_bundle: Any, tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of the zip's own fields replaced, inserted or removed, and sealed again."""
    bundle = make_bundle("good.jirgee", overwrite=True)
    body = bytearray(bundle.path.read_bytes()[:-SEAL_LENGTH])
    directory = bytes(body).find(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body) - 1) | st.integers(directory, len(body) - 1))
        start = min(start, len(body) - 1)
        stop = min(len(body), start + data.draw(st.integers(0, 8)))
        body[start:stop] = data.draw(st.binary(max_size=8))
        if not body:
            break
    again = loaded_or_refused(sealed(tmp_path / "other.jirgee", bytes(body)))
    if again:  # whatever the archive says, the files are those of the manifest
        assert again.files == bundle.files
        assert all(hashlib.sha256(again.read(name)).hexdigest() == sha for name, (_, sha) in again.files.items())


def test_a_name_of_thousands_of_bytes_is_not_repeated(make_bundle: Any, tmp_path: Path) -> None:
    """zipfile quotes what a local header says its file's name is: here 4,000 bytes of what follows it."""
    body = bytearray(make_bundle("good.jirgee").path.read_bytes()[:-SEAL_LENGTH])
    assert body[:4] == b"PK\x03\x04"
    body[26:28] = (4_000).to_bytes(2, "little")
    assert loaded_or_refused(sealed(tmp_path / "other.jirgee", bytes(body))) is None


@FUZZ
@given(body=st.binary(max_size=300))
def test_an_archive_of_any_bytes(tmp_path: Path, body: bytes) -> None:
    assert loaded_or_refused(sealed(tmp_path / "x.jirgee", body)) is None


def test_a_bomb_is_not_unpacked(make_bundle: Any, tmp_path: Path) -> None:
    """A member that claims 4 GB, in an archive of a few kilobytes, whose manifest claims as much."""
    bundle = make_bundle("good.jirgee")
    with zipfile.ZipFile(bundle.path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(members["manifest.json"])
    manifest["files"]["README.md"]["size"] = 0xFFFFFF00
    members["manifest.json"] = json.dumps(manifest).encode()
    members["manifest.sha256"] = hash_line(members["manifest.json"])
    path = tmp_path / "bomb.jirgee"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = SEAL + b"0" * 64
    body = bytearray(path.read_bytes()[:-SEAL_LENGTH])
    at = bytes(body).rfind(b"README.md") - 46
    body[at + 20 : at + 28] = struct.pack("<2I", 0xFFFFFF00, 0xFFFFFF00)
    assert loaded_or_refused(sealed(path, bytes(body))) is None
