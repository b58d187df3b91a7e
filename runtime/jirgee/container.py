"""The files of a bundle by name, in a directory or in one packed file: bounded reads, no links followed.

A packed bundle is a zip archive that stores its members uncompressed; its comment seals every byte before it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from .errors import BundleError

SEAL = b"sha256:"
SEAL_LENGTH = len(SEAL) + 64
_SEAL_FORM = re.compile(rb"sha256:[0-9a-f]{64}")
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip member; the last two are the lengths of its name and extra field
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile)


class Container:
    """An open bundle, whose files are not verified yet. Every failure is a BundleError naming bundle and file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None):
        self._path, self._archive = path, archive

    @classmethod
    def open(cls, path: Path) -> Container:
        try:
            if path.is_dir():
                return cls(path, None)
            if not os.path.lexists(path):
                raise BundleError(f"{path}: no such bundle; make one with: jirgee export CHECKPOINT -o {path}")
            _check_seal(path)
            return cls(path, zipfile.ZipFile(path))
        except _UNREADABLE as error:
            raise BundleError(f"{path}: not a bundle, or one that cannot be read ({error!s:.200})") from None

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._archive:
            self._archive.close()

    def check_names(self, wanted: set[str]) -> None:
        """Packed files hold exactly the wanted names; a directory may hold more, which is never read."""
        if self._archive and sorted(self._archive.namelist()) != sorted(wanted):
            raise BundleError(f"{self._path}: holds other files than its manifest lists")

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of ``name``; an error if they are more than ``limit``."""
        return b"".join(self._blocks(name, None, limit))

    def hash(self, name: str, size: int) -> str:
        """SHA-256 of ``name``, which must have exactly ``size`` bytes."""
        digest = hashlib.sha256()
        for block in self._blocks(name, size, size):
            digest.update(block)
        return digest.hexdigest()

    def offset(self, name: str) -> int:
        """Where the bytes of ``name`` begin in its file: 0, or its place in the packed file."""
        if not self._archive:
            return 0
        try:
            with self._path.open("rb") as stream:
                header = self._archive.getinfo(name).header_offset
                stream.seek(header)
                *_, name_length, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
                return header + _LOCAL_HEADER.size + name_length + extra
        except _UNREADABLE as error:
            raise BundleError(f"{self._path}: no readable {name} ({error!s:.200})") from None

    def mapped(self, name: str, size: int) -> memoryview:
        """The bytes of ``name`` as the file system's cache has them: not copied, and unmapped when no longer used."""
        start = self.offset(name)
        try:
            with (self._path if self._archive else self._path / name).open("rb") as stream:
                return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))[start : start + size]
        except _UNREADABLE as error:
            raise BundleError(f"{self._path}: no readable {name} ({error!s:.200})") from None

    def _open(self, name: str, size: int | None, limit: int):
        """A binary stream of ``name``, whose size is exactly ``size`` (where given) and at most ``limit``."""
        try:
            if self._archive:
                info = self._archive.getinfo(name)
                if info.compress_type != zipfile.ZIP_STORED:
                    raise BundleError(f"{self._path}: {name} is compressed; a bundle stores its files")
                found, stream = info.file_size, self._archive.open(info)
            else:
                file = self._path / name
                if file.is_symlink():
                    raise BundleError(f"{file}: is a link; a bundle holds only plain files")
                found, stream = file.stat().st_size, file.open("rb")
        except _UNREADABLE as error:
            raise BundleError(
                f"{self._path}: no readable {name}: not a bundle, or a damaged one ({error!s:.200})"
            ) from None
        if found > limit or (size is not None and found != size):
            stream.close()
            raise BundleError(
                f"{self._path}: {name} has {found} bytes, which is not what the manifest says; export it again"
            )
        return stream

    def _blocks(self, name: str, size: int | None, limit: int) -> Iterator[bytes]:
        with self._open(name, size, limit) as stream:
            try:
                while block := stream.read(1 << 20):
                    yield block
            except _UNREADABLE as error:
                raise BundleError(f"{self._path}: {name} cannot be read to its end ({error!s:.200})") from None


def pack(directory: Path, names: list[str], out: Path) -> None:
    """Write the named files of ``directory`` as one packed bundle: the same files give the same bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), (directory / name).read_bytes())
        archive.comment = SEAL + b"0" * 64
    body = out.read_bytes()[:-SEAL_LENGTH]
    out.write_bytes(body + SEAL + hashlib.sha256(body).hexdigest().encode())


def _check_seal(path: Path) -> None:
    """The archive comment seals the whole file, its zip headers included."""
    digest, remaining = hashlib.sha256(), path.stat().st_size - SEAL_LENGTH
    with path.open("rb") as stream:
        while remaining > 0:
            block = stream.read(min(1 << 20, remaining))
            if not block:
                break
            digest.update(block)
            remaining -= len(block)
        seal = stream.read(SEAL_LENGTH + 1)
    if not _SEAL_FORM.fullmatch(seal) or seal[len(SEAL) :].decode() != digest.hexdigest():
        raise BundleError(
            f"{path}: not a bundle, or a damaged one (its seal does not match its bytes); export or copy it again"
        )
