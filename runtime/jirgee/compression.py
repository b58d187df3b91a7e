"""Compressed files: opened for reading in bounded steps, and packed for writing one piece at a time.

Pieces packed one by one and put behind one another are a valid file of their kind (members of gzip, streams of xz,
frames of zstd): so a file can grow piece by piece and be cut back to any of them.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import optional_import
from .records import ByteReader


@dataclass(frozen=True)
class Compression:
    """``open``: a binary file -> one with ``read1``. ``pack``: bytes -> a complete piece of the compressed file."""

    open: Callable[[Any], Any]
    pack: Callable[[bytes], bytes]


class _Zstd:
    """Frames of zstd. The library takes a file that is cut short for one that ends; this does not."""

    def __init__(self, raw: Any):
        self._complete = _zstd_is_complete(raw)
        self._stream = zstandard().ZstdDecompressor().stream_reader(raw, read_across_frames=True)

    def read1(self, size: int) -> bytes:
        try:
            block = self._stream.read(size)
        except zstandard().ZstdError as error:
            raise EOFError(str(error)) from None
        if not block and not self._complete:
            raise EOFError("the last frame is not complete")
        return block


def zstandard() -> Any:
    return optional_import("zstandard", "jirgee[zstd]", "a .zst file")


def _zstd_is_complete(raw: Any) -> bool:
    """Whether the file ends where a frame does; walks the headers of blocks (RFC 8878, 3.1.1). Leaves it at 0."""
    size, at = raw.seek(0, os.SEEK_END), 0
    try:
        while at < size:
            raw.seek(at)
            head = raw.read(18)
            magic = int.from_bytes(head[:4], "little")
            if magic & 0xFFFFFFF0 == 0x184D2A50:  # a skippable frame
                at += 8 + int.from_bytes(head[4:8], "little")
                continue
            if len(head) < 6:
                return False
            if magic != 0xFD2FB528:
                return True  # not a frame at all, which the library will say
            descriptor = head[4]
            single, content = descriptor >> 5 & 1, (0, 2, 4, 8)[descriptor >> 6]
            at += 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + (content or single)
            last = False
            while not last:
                raw.seek(at)
                block = int.from_bytes(header := raw.read(3), "little")
                if len(header) < 3:
                    return False
                last = bool(block & 1)
                at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
            at += 4 if descriptor >> 2 & 1 else 0
        return at == size
    finally:
        raw.seek(0)


COMPRESSIONS: dict[str, Compression] = {
    ".gz": Compression(lambda raw: gzip.GzipFile(fileobj=raw), lambda data: gzip.compress(data, 6, mtime=0)),
    ".xz": Compression(lzma.LZMAFile, lzma.compress),
    ".zst": Compression(_Zstd, lambda data: zstandard().ZstdCompressor(level=6).compress(data)),
}
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


def open_bytes(path: Path, raw: io.FileIO) -> ByteReader:
    """The uncompressed bytes of an open file, by its name. Raises MissingPackage for .zst without zstandard."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return ByteReader(raw.read, raw.seek)
    return ByteReader(compression.open(raw).read1, broken=BROKEN)
