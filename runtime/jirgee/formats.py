"""Which formats there are, by what name a file tells its own, and rows out of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import sources, writers
from .compression import COMPRESSIONS, open_bytes
from .errors import InputError
from .parquet import read_parquet
from .records import ByteReader, Place, Reject, Row


@dataclass(frozen=True)
class Format:
    """``read``: (path, bytes, where to go on) -> rows. ``write``: (text, columns, with header) -> a writer of rows.

    Parquet has neither: it is no stream of text.
    """

    read: Callable[[Path, ByteReader, Place | None], Iterator[Row | Reject]] | None
    write: Callable[[IO[str], list[str], bool], Callable[[dict[str, Any]], Any]] | None


FORMATS: dict[str, Format] = {
    "csv": Format(sources.read_csv, writers.write_csv),
    "tsv": Format(sources.read_tsv, writers.write_tsv),
    "tsv-quoted": Format(sources.read_quoted_tsv, None),
    "jsonl": Format(sources.read_jsonl, writers.write_jsonl),
    "json": Format(sources.read_json, None),
    "text": Format(sources.read_text, None),
    "parquet": Format(None, None),
}
WRITABLE = [name for name, format in FORMATS.items() if format.write or name == "parquet"]
EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".json": "json",
    ".js": "json",
    ".parquet": "parquet",
}


def format_of(path: str | os.PathLike[str], given: str | None = None) -> str:
    """The row of ``FORMATS`` for a file: the one given, or the one its name says. Raises InputError for neither."""
    if given:
        if given not in FORMATS:
            raise InputError(f"no such format {given!r}; choose from {', '.join(FORMATS)}", path)
        return given
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    name = EXTENSIONS.get(suffixes[-1] if suffixes else "")
    if name is None:
        raise InputError(f"its name does not tell its format; pass --format {'|'.join(FORMATS)}", path)
    return name


def read_items(
    path: str | os.PathLike[str],
    format: str | None = None,
    at: Place | None = None,
    consumed: Callable[[int], Any] | None = None,
) -> Iterator[Row | Reject]:
    """Stream the rows of one file, from the one that starts ``at`` on. A damaged file ends with a Reject that says so.

    ``consumed`` is told now and then how many bytes of the file are read. Raises InputError if the file itself cannot
    be read or has no usable header.
    """
    path = Path(path)
    read = FORMATS[format_of(path, format)].read
    try:
        with path.open("rb", buffering=0) as raw:
            if read is None:
                size = os.fstat(raw.fileno()).st_size
                yield from read_parquet(path, raw, at, lambda share: consumed and consumed(int(share * size)))
                return
            for count, item in enumerate(read(path, open_bytes(path, raw), at)):
                if consumed and count % 1024 == 0:
                    consumed(raw.tell())
                yield item
    except OSError as error:
        raise InputError(error.strerror or str(error), path) from None


def read_rows(path: str | os.PathLike[str], format: str | None = None) -> Iterator[Row | Reject]:
    """Stream the rows of one file. Raises InputError if it cannot be read to its end or has no usable header."""
    for item in read_items(path, format):
        if isinstance(item, Reject) and item.damaged:
            raise InputError(item.reason, path, item.line)
        yield item
