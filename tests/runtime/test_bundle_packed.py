"""Packed bundles made by hand: an archive whose seal holds but that is not what ``write`` makes."""

from __future__ import annotations

import hashlib
import random
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jirgee.bundle import Bundle
from jirgee.errors import BundleError

SEAL = len("sha256:") + 64
Member = tuple[zipfile.ZipInfo, bytes]


def seal(path: Path) -> None:
    """Make the seal of ``path`` hold, as anybody can."""
    body = path.read_bytes()[:-SEAL]
    path.write_bytes(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode())


def repack(bundle: Bundle, change: Callable[[list[Member]], None]) -> Path:
    """The bundle's members, changed, in a new sealed archive."""
    with zipfile.ZipFile(bundle.path) as archive:
        members = [(zipfile.ZipInfo(info.filename), archive.read(info)) for info in archive.infolist()]
    change(members)
    out = bundle.path.with_name("other.jirgee")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for info, data in members:
            archive.writestr(info, data)
        archive.comment = b"sha256:" + b"0" * 64
    seal(out)
    return out


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        Bundle.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unchanged_archive_loads(make_bundle: Any) -> None:
    bundle = make_bundle("fake.jirgee")
    assert Bundle.load(repack(bundle, lambda members: None)).files == bundle.files


def test_the_same_files_pack_to_the_same_bytes(make_bundle: Any) -> None:
    assert make_bundle("a.jirgee").path.read_bytes() == make_bundle("b.jirgee").path.read_bytes()


@pytest.mark.parametrize("name", ["extra.txt", "../extra", "/extra", "sub/extra", "sub/", "extra.pkl"])
def test_a_member_too_many(make_bundle: Any, name: str) -> None:
    path = repack(make_bundle("fake.jirgee"), lambda members: members.append((zipfile.ZipInfo(name), b"")))
    assert "other files than its manifest lists" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_member_twice(make_bundle: Any, name: str) -> None:
    refused(repack(make_bundle("fake.jirgee"), lambda members: members.append((zipfile.ZipInfo(name), b"other"))))


@pytest.mark.parametrize("gone", range(6))
def test_a_member_too_few(make_bundle: Any, gone: int) -> None:
    refused(repack(make_bundle("fake.jirgee"), lambda members: members.__delitem__(gone)))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member(make_bundle: Any, method: int) -> None:
    def change(members: list[Member]) -> None:
        next(info for info, _ in members if info.filename == "model.onnx").compress_type = method

    assert "model.onnx is compressed" in refused(repack(make_bundle("fake.jirgee"), change))


def test_a_member_that_is_a_link(make_bundle: Any) -> None:
    def change(members: list[Member]) -> None:
        place = next(i for i, (info, _) in enumerate(members) if info.filename == "pieces.model")
        link = zipfile.ZipInfo("pieces.model")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        members[place] = (link, b"/etc/passwd")

    refused(repack(make_bundle("fake.jirgee"), change))


def test_a_member_whose_checksum_is_wrong(make_bundle: Any) -> None:
    bundle = make_bundle("fake.jirgee")
    with zipfile.ZipFile(bundle.path) as archive:
        crc = archive.getinfo("model.onnx").CRC.to_bytes(4, "little")
    raw = bundle.path.read_bytes()
    assert raw.count(crc) == 2
    bundle.path.write_bytes(raw.replace(crc, bytes(4)))
    seal(bundle.path)
    refused(bundle.path)


def test_a_resealed_flip_is_refused_or_harmless(make_bundle: Any) -> None:
    """Anybody can seal: whatever a flipped bit does to the zip's own fields, the files are those of the manifest."""
    bundle = make_bundle("fake.jirgee")
    whole, rng = bundle.path.read_bytes(), random.Random(3)
    headers = range((len(whole) - SEAL - 700) * 8, (len(whole) - SEAL) * 8)
    for bit in [*rng.sample(range((len(whole) - SEAL) * 8), 300), *rng.sample(headers, 700)]:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        bundle.path.write_bytes(data)
        seal(bundle.path)
        try:
            again = Bundle.load(bundle.path)
        except BundleError:
            continue
        assert again.files == bundle.files
        assert all(hashlib.sha256(again.read(name)).hexdigest() == sha for name, (_, sha) in again.files.items())


def test_an_archive_without_a_seal(make_bundle: Any) -> None:
    path = make_bundle("fake.jirgee").path
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b""
    assert "seal" in refused(path)


def test_a_sealed_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.jirgee"
    for body in (b"", b"hello", b"PK\x05\x06" + b"\xff" * 40):
        path.write_bytes(body + b"0" * SEAL)
        seal(path)
        refused(path)
