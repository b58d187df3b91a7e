"""Rows -> text: how a row looks in CSV, TSV and JSON lines."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import IO, Any

_SURROGATE = re.compile("[\ud800-\udfff]")
WriteRow = Callable[[dict[str, Any]], Any]


def _plain(value: Any) -> str:
    """Values that JSON has no form for, as Parquet gives them: bytes in base64, times and numbers as text."""
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def cell(value: Any) -> str:
    """A value as a cell of a table; half an emoji, for which UTF-8 has no form, becomes U+FFFD."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if value is None or isinstance(value, (bool, int, float, list, dict)):
        return "" if value is None else _SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False, default=_plain))
    return _plain(value)


def write_csv(text: IO[str], columns: list[str], header: bool) -> WriteRow:
    # Only a terminator of \r\n makes every Python quote a lone \r too; the file's lines end in \n all the same.
    lines = SimpleNamespace(write=lambda line: text.write(line[:-2] + "\n"))
    writer = csv.DictWriter(lines, columns, lineterminator="\r\n")  # type: ignore[arg-type]
    if header:
        writer.writer.writerow([cell(name) for name in columns])
    return lambda row: writer.writerow({name: cell(value) for name, value in row.items()})


def write_tsv(text: IO[str], columns: list[str], header: bool) -> WriteRow:
    known = set(columns)

    def write_cells(values: Iterable[Any]) -> None:
        cells = [cell(value) for value in values]
        if any("\t" in cell or "\n" in cell or "\r" in cell for cell in cells):
            raise ValueError(
                "a text holds a tab or a line break, which TSV has no form for; write CSV or JSONL instead"
            )
        text.write("\t".join(cells) + "\n")

    def write(row: dict[str, Any]) -> None:
        if extra := row.keys() - known:
            raise ValueError(f"a row has the column {min(extra)!r}, which the first row had not; write JSONL instead")
        write_cells(row.get(name, "") for name in columns)

    if header:
        write_cells(columns)
    return write


def write_jsonl(text: IO[str], columns: list[str], header: bool) -> WriteRow:
    return lambda row: text.write(json_line(row))


def extended_line(row: dict[str, Any], added: dict[str, Any], origin: Any) -> str:
    """The JSON line of ``row`` and ``added``; where ``row`` was JSON text (``origin``), that text as it stands."""
    if not isinstance(origin, str) or not row:
        return json_line(row | added)
    return f"{origin[:-1].rstrip()}, {json_line(added)[1:]}" if added else origin + "\n"


def json_line(row: dict[str, Any]) -> str:
    """One JSON line, UTF-8 as is; a row with a lone surrogate is escaped, because UTF-8 has no form for it."""
    line = json.dumps(row, ensure_ascii=False, default=_plain)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(row, default=_plain)
    return line + "\n"


class TextPieces:
    """Rows -> one piece of a growing text file. ``header``: whether the next piece is the first."""

    def __init__(self, write: Callable[[IO[str], list[str], bool], WriteRow], columns: list[str] | None, header: bool):
        self._make, self.columns, self._header = write, columns, header
        self._text = io.StringIO()
        self._write: WriteRow | None = None

    def add(self, record: dict[str, Any], added: dict[str, Any], origin: Any) -> None:
        if self.columns is None:
            self.columns = list(record | added)
        self._start()
        if self._make is write_jsonl:
            self._text.write(extended_line(record, added, origin))
        else:
            self._write(record | added)  # type: ignore[misc]

    def _start(self) -> None:
        if self._write is None:
            self._write = self._make(self._text, self.columns or [], self._header)

    def __len__(self) -> int:
        return self._text.tell()

    def take(self) -> bytes:
        if self.columns:
            self._start()  # the header of a table without rows
        data = self._text.getvalue().encode("utf-8", "replace")
        self._text.seek(0)
        self._text.truncate()
        return data
