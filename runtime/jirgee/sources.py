"""Records -> rows, one reader a format. A reader takes a byte stream and where to go on, and yields in file order."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import InputError
from .records import ByteReader, Place, Record, Reject, Row, array_records, records


class UnreadableFile(InputError):
    """A whole file that holds no rows that can be read: no header, not the format it says."""


def _decoded(items: Iterator[Record]) -> Iterator[tuple[Record, str] | Reject]:
    """Records as text without their line end; what is not UTF-8, holds a NUL or has a problem comes as a Reject."""
    for record in items:
        problem, text = record.problem, ""
        if not problem:
            try:
                text = record.raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 (byte 0x{record.raw[error.start]:02x} at position {error.start + 1} of the row)"
            else:
                problem = "holds a NUL character" if "\0" in text else ""
        yield record.reject(problem) if problem else (record, text)


def _row(values: dict, record: Record, origin: str | None = None) -> Row:
    return Row(values, record.line, record.offset, record.raw, len(record.raw), origin)


def _read_table(
    path: Path, stream: ByteReader, at: Place | None, split: Callable[[str], list[str]], quoted_by: bytes
) -> Iterator[Row | Reject]:
    header: list[str] | None = None
    items = _decoded(records(stream, quoted_by))
    for item in items:
        if isinstance(item, Reject):
            raise _unreadable(path, item.reason, item)
        record, text = item
        if text:
            try:
                header = split(text)
            except csv.Error as error:
                raise _unreadable(path, f"not a CSV row ({error})", record) from None
            if len(set(header)) != len(header):
                raise UnreadableFile("the header names a column twice", path, record.line)
            break
    if header is None:
        raise UnreadableFile("the file is empty", path)
    if at:
        stream.skip_to(at.offset)
        items = _decoded(records(stream, quoted_by, at.line))
    for item in items:
        if isinstance(item, Reject):
            yield item
            continue
        record, text = item
        if not text:
            continue
        try:
            cells = split(text)
        except csv.Error as error:
            yield record.reject(f"not a CSV row ({error})")
            continue
        if len(cells) != len(header):
            yield record.reject(f"{len(cells)} columns where the header has {len(header)}")
        else:
            yield _row(dict(zip(header, cells, strict=True)), record)


def _unreadable(path: Path, reason: str, place: Record | Reject) -> UnreadableFile:
    if place.damaged:
        return UnreadableFile(reason, path)
    return UnreadableFile(f"the header line is unreadable: {reason}", path, place.line)


def read_csv(path: Path, stream: ByteReader, at: Place | None) -> Iterator[Row | Reject]:
    return _read_table(path, stream, at, lambda text: next(csv.reader([text], strict=True)), b",")


def read_tsv(path: Path, stream: ByteReader, at: Place | None) -> Iterator[Row | Reject]:
    """The layout of mn-tweet-bert: a header, tabs between cells, no quoting."""
    return _read_table(path, stream, at, lambda text: text.split("\t"), b"")


def read_quoted_tsv(path: Path, stream: ByteReader, at: Place | None) -> Iterator[Row | Reject]:
    """CSV with tabs in the place of commas."""
    return _read_table(path, stream, at, lambda text: next(csv.reader([text], delimiter="\t", strict=True)), b"\t")


_BREAK = re.compile(r"\s*[\r\n]\s*")  # in JSON only between values; inside a string it would be escaped


def _objects(items: Iterator[Record]) -> Iterator[Row | Reject]:
    """JSON objects; their origin is their own text on one line, so that no digit of a number is lost on the way."""
    for item in _decoded(items):
        if isinstance(item, Reject):
            yield item
            continue
        record, text = item
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield record.reject(f"not JSON ({error})")
            continue
        if isinstance(value, dict):
            yield _row(value, record, _BREAK.sub(" ", text.strip()))
        else:
            yield record.reject("not a JSON object")


def read_jsonl(path: Path, stream: ByteReader, at: Place | None) -> Iterator[Row | Reject]:
    if at:
        stream.skip_to(at.offset)
    return _objects(records(stream, line=at.line if at else 1))


_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:window\.YTD\.[\w.]+\s*=)?\s*\[")


def read_json(path: Path, stream: ByteReader, at: Place | None) -> Iterator[Row | Reject]:
    """One JSON array of objects, as it is or behind ``window.YTD.tweets.part0 =`` (a Twitter archive); else JSONL."""
    begin = _ARRAY.match(stream.peek())
    if not begin:
        if path.suffix.lower() == ".js" and stream.peek():
            raise UnreadableFile("not a file of a Twitter archive (window.YTD.… = [ …)", path)
        return read_jsonl(path, stream, at)
    place = at or Place(1 + begin.group().count(b"\n"), begin.end())
    stream.skip_to(place.offset)
    return _objects(array_records(stream, place.line))


def read_text(path: Path, stream: ByteReader, at: Place | None) -> Iterator[Row | Reject]:
    if at:
        stream.skip_to(at.offset)
    for item in _decoded(records(stream, line=at.line if at else 1)):
        yield item if isinstance(item, Reject) else _row({"text": item[1]}, item[0])
