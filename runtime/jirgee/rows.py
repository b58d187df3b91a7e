"""File formats: rows in, rows out, in constant memory.

A source yields ``Row`` or ``Reject`` in file order: a row that cannot be read never hides the ones behind it. A sink
writes beside its final name and appears there whole, or not at all. A row is a dict of column -> value.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from .errors import InputError

MAX_RECORD_BYTES = 1 << 20  # a longer record is rejected, not read: no tweet has a megabyte


@dataclass(frozen=True)
class Row:
    """``record``: column -> value as read. ``line``: 1-based line it starts on. ``offset``: its byte in the file."""

    record: dict[str, Any]
    line: int
    offset: int


@dataclass(frozen=True)
class Reject:
    """A record that is not a row: where it starts (``line`` 1-based, byte ``offset``), why, and its first bytes."""

    line: int
    offset: int
    reason: str
    raw: bytes

    def to_json(self, path: Path) -> dict[str, Any]:
        """A line of a rejects file; bytes that are not UTF-8 are shown as ``\\xNN``."""
        raw = self.raw.decode("utf-8", "backslashreplace")
        return {
            "file": str(path),
            "line": self.line,
            "offset": self.offset,
            "reason": self.reason,
            "raw": raw,
        }


@dataclass(frozen=True)
class _Record:
    line: int
    offset: int
    raw: bytes
    problem: str = ""


# --- reading -----------------------------------------------------------------------------------------------------


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


def read_rows(path: str | os.PathLike[str], format: str | None = None) -> Iterator[Row | Reject]:
    """Stream the rows of one file. Raises InputError if the file itself cannot be read or has no usable header."""
    reader = FORMATS[format_of(path, format)].read
    path = Path(path)
    compression = COMPRESSIONS.get(path.suffix.lower(), open)
    try:
        with compression(path, "rb") as stream:
            yield from reader(path, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"the compressed file is cut short or damaged ({error})", path) from None
    except OSError as error:
        raise InputError(error.strerror or str(error), path) from None


def _records(stream: IO[bytes], quoted: bool = False) -> Iterator[_Record]:
    """Cut a byte stream into records: lines, or (``quoted``) lines joined until every quoted cell is closed.

    A record longer than ``MAX_RECORD_BYTES`` comes as its first bytes and a problem. A quote that is never closed
    costs only the line it stands on: the lines that it had swallowed are read again, one by one.
    """
    line, offset = 1, 0
    if stream.peek(3)[:3] == b"\xef\xbb\xbf":  # type: ignore[attr-defined]
        offset = len(stream.read(3))
    again: deque[bytes] = deque()  # lines to be read once more

    def next_line() -> bytes:
        return again.popleft() if again else stream.readline(MAX_RECORD_BYTES + 1)

    while raw := next_line():
        lines, size, problem = [raw], len(raw), ""
        if size > MAX_RECORD_BYTES:
            problem = f"longer than {MAX_RECORD_BYTES} bytes"
            while not raw.endswith(b"\n") and (raw := stream.readline(MAX_RECORD_BYTES)):
                size += len(raw)
        elif quoted and (inside := _inside_quotes(raw, False)):
            while inside and size <= MAX_RECORD_BYTES and (raw := next_line()):
                lines.append(raw)
                size += len(raw)
                inside = _inside_quotes(raw, True)
            if inside is not False:
                again.extendleft(reversed(lines[1:]))
                lines, problem = lines[:1], "a double quote is opened and never closed"
                size = len(lines[0])
        yield _Record(line, offset, b"".join(lines), problem)
        line, offset = line + len(lines), offset + size


_TO_CLOSING_QUOTE = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")')


def _inside_quotes(line: bytes, inside: bool) -> bool | None:
    """Whether a quoted CSV cell is open at the end of ``line``, ``inside`` one or not at its start.

    Only a quote that begins a cell opens it: ``24" screen`` is text. None if something else than a comma or the end of
    the line follows a closing quote.
    """
    place = 0
    if not inside and line.startswith(b'"'):
        inside, place = True, 1
    while True:
        if inside:
            closing = _TO_CLOSING_QUOTE.match(line, place)
            if not closing:
                return True
            place = closing.end()
            if line[place : place + 1] not in (b",", b"\r", b"\n", b""):
                return None
        opening = line.find(b',"', place)
        if opening < 0:
            return False
        inside, place = True, opening + 2


def _decoded(path: Path, stream: IO[bytes], quoted: bool = False) -> Iterator[tuple[_Record, str] | Reject]:
    """Records as text without their line end; what is not UTF-8, holds a NUL or is too long comes as a Reject."""
    for record in _records(io.BufferedReader(stream) if not hasattr(stream, "peek") else stream, quoted):  # type: ignore[arg-type]
        problem = record.problem
        text = ""
        if not problem:
            try:
                text = record.raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 (byte 0x{record.raw[error.start]:02x} at position {error.start + 1} of the row)"
            else:
                problem = "holds a NUL character" if "\0" in text else ""
        if problem:
            yield Reject(record.line, record.offset, problem, record.raw[:4096])
        else:
            yield record, text


def _read_table(
    path: Path, stream: IO[bytes], split: Callable[[str], list[str]], quoted: bool
) -> Iterator[Row | Reject]:
    header: list[str] | None = None
    for item in _decoded(path, stream, quoted):
        if isinstance(item, Reject):
            if header is None:
                raise InputError(f"the header line is unreadable: {item.reason}", path, item.line)
            yield item
            continue
        record, text = item
        if not text:
            continue
        try:
            cells = split(text)
        except csv.Error as error:
            if header is None:
                raise InputError(f"the header line is unreadable: not a CSV row ({error})", path, record.line) from None
            yield Reject(record.line, record.offset, f"not a CSV row ({error})", record.raw[:4096])
            continue
        if header is None:
            header = cells
            if len(set(header)) != len(header):
                raise InputError("the header names a column twice", path, record.line)
        elif len(cells) != len(header):
            reason = f"{len(cells)} columns where the header has {len(header)}"
            yield Reject(record.line, record.offset, reason, record.raw[:4096])
        else:
            yield Row(dict(zip(header, cells, strict=True)), record.line, record.offset)
    if header is None:
        raise InputError("the file is empty", path)


def _read_csv(path: Path, stream: IO[bytes]) -> Iterator[Row | Reject]:
    return _read_table(path, stream, lambda text: next(csv.reader([text], strict=True)), quoted=True)


def _read_tsv(path: Path, stream: IO[bytes]) -> Iterator[Row | Reject]:
    """The layout of mn-tweet-bert: a header, tabs between cells, no quoting."""
    return _read_table(path, stream, lambda text: text.split("\t"), quoted=False)


def _read_jsonl(path: Path, stream: IO[bytes]) -> Iterator[Row | Reject]:
    for item in _decoded(path, stream):
        if isinstance(item, Reject):
            yield item
            continue
        record, text = item
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Reject(record.line, record.offset, f"not JSON ({error})", record.raw[:4096])
            continue
        if isinstance(value, dict):
            yield Row(value, record.line, record.offset)
        else:
            yield Reject(record.line, record.offset, "not a JSON object", record.raw[:4096])


def _read_text(path: Path, stream: IO[bytes]) -> Iterator[Row | Reject]:
    for item in _decoded(path, stream):
        yield item if isinstance(item, Reject) else Row({"text": item[1]}, item[0].line, item[0].offset)


# --- writing -----------------------------------------------------------------------------------------------------


class Sink:
    """Writes rows beside ``path`` and renames on ``close``; leaving a ``with`` block by an exception discards them."""

    def __init__(self, path: str | os.PathLike[str], format: str | None = None, columns: Sequence[str] | None = None):
        """``columns``: of a table; by default those of the first row. Raises InputError for a place not writable."""
        self.path = Path(path)
        self._format = format_of(path, format)
        self.nested = self._format == "jsonl"  # whether a cell can hold an object
        if FORMATS[self._format].write is None:
            raise InputError(f"{self._format} cannot be written; choose csv, tsv or jsonl", path)
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        compression = COMPRESSIONS.get(self.path.suffix.lower(), open)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = compression(self._partial, "wb")
        except OSError as error:
            raise InputError(error.strerror or str(error), path) from None
        self._columns = list(columns) if columns else None
        self._text = io.TextIOWrapper(self._stream, encoding="utf-8", errors="replace", newline="")
        self._write: Callable[[dict[str, Any]], Any] | None = None

    def write(self, row: dict[str, Any]) -> None:
        """Append one row. Raises InputError if it does not fit the columns or the disk is full."""
        try:
            if self._write is None:
                self._columns = self._columns or list(row)
                self._write = FORMATS[self._format].write(self._text, self._columns)  # type: ignore[misc]
            self._write(row)
        except ValueError as error:
            raise InputError(str(error), self.path) from None
        except OSError as error:
            raise InputError(f"cannot write: {error.strerror or error}", self.path) from None

    def close(self) -> None:
        """Finish: flush to the disk and take the final name."""
        try:
            if self._write is None and self._columns:
                self._write = FORMATS[self._format].write(self._text, self._columns)  # type: ignore[misc]
            self._text.close()
            with self._partial.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(self._partial, self.path)
        except OSError as error:
            self.discard()
            raise InputError(f"cannot write: {error.strerror or error}", self.path) from None

    def discard(self) -> None:
        """Forget everything written."""
        with suppress(OSError):
            self._text.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self.discard() if kind else self.close()


_SURROGATE = re.compile("[\ud800-\udfff]")


def _cell(value: Any) -> str:
    """A value as a cell of a table; half an emoji, for which UTF-8 has no form, becomes U+FFFD."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _write_csv(text: IO[str], columns: list[str]) -> Callable[[dict[str, Any]], Any]:
    # Only a terminator of \r\n makes every Python quote a lone \r too; the file's lines end in \n all the same.
    lines = SimpleNamespace(write=lambda line: text.write(line[:-2] + "\n"))
    writer = csv.DictWriter(lines, columns, lineterminator="\r\n")  # type: ignore[arg-type]
    writer.writer.writerow([_cell(name) for name in columns])
    return lambda row: writer.writerow({name: _cell(value) for name, value in row.items()})


def _write_tsv(text: IO[str], columns: list[str]) -> Callable[[dict[str, Any]], Any]:
    known = set(columns)

    def write_cells(values: Iterable[Any]) -> None:
        cells = [_cell(value) for value in values]
        if any("\t" in cell or "\n" in cell or "\r" in cell for cell in cells):
            raise ValueError(
                "a text holds a tab or a line break, which TSV has no form for; write CSV or JSONL instead"
            )
        text.write("\t".join(cells) + "\n")

    def write(row: dict[str, Any]) -> None:
        if extra := row.keys() - known:
            raise ValueError(f"a row has the column {min(extra)!r}, which the first row had not; write JSONL instead")
        write_cells(row.get(name, "") for name in columns)

    write_cells(columns)
    return write


def _write_jsonl(text: IO[str], columns: list[str]) -> Callable[[dict[str, Any]], Any]:
    return lambda row: text.write(json_line(row))


def json_line(row: dict[str, Any]) -> str:
    """One JSON line, UTF-8 as is; a row with a lone surrogate is escaped, because UTF-8 has no form for it."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line + "\n"


@dataclass(frozen=True)
class Format:
    """``read``: (path, byte stream) -> rows. ``write``: (text stream, columns) -> a function that writes one row."""

    read: Callable[[Path, IO[bytes]], Iterator[Row | Reject]]
    write: Callable[[IO[str], list[str]], Callable[[dict[str, Any]], Any]] | None


FORMATS: dict[str, Format] = {
    "csv": Format(_read_csv, _write_csv),
    "tsv": Format(_read_tsv, _write_tsv),
    "jsonl": Format(_read_jsonl, _write_jsonl),
    "text": Format(_read_text, None),
}
EXTENSIONS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text"}
COMPRESSIONS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
