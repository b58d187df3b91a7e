"""Bytes -> records: lines, quoted CSV rows, elements of a JSON array. Knows nothing of columns.

Memory is bounded whatever a file holds: a record longer than ``MAX_RECORD_BYTES`` comes as its first bytes and a
problem. Each record says where it starts, and reading can start again at any record's start.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_RECORD_BYTES = 1 << 20  # a longer record is rejected, not read: no tweet has a megabyte
SHOWN_BYTES = 4096  # of a rejected record
BLOCK = 1 << 16


class Place(NamedTuple):
    """Where a record starts: ``line`` (1-based) and byte ``offset`` (of the uncompressed file)."""

    line: int
    offset: int


@dataclass(frozen=True)
class Row:
    """``record``: column -> value as read. ``line``: 1-based line it starts on. ``offset``: its byte in the file.

    ``raw``: its bytes; ``size``: how much memory it stands for. ``origin``: what a sink of the same format needs to
    copy the row unchanged. In Parquet, line and offset are the row's number, from 1 and from 0.
    """

    record: dict[str, Any]
    line: int
    offset: int
    raw: bytes = field(default=b"", compare=False, repr=False)
    size: int = field(default=0, compare=False, repr=False)
    origin: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Reject:
    """A record that is not a row: where it starts (``line`` 1-based, byte ``offset``), why, and its first bytes.

    ``damaged``: the file is broken there, and nothing behind it can be read.
    """

    line: int
    offset: int
    reason: str
    raw: bytes
    damaged: bool = False

    def to_json(self, path: object) -> dict[str, Any]:
        """A line of a rejects file; bytes that are not UTF-8 are shown as ``\\xNN``."""
        raw = self.raw.decode("utf-8", "backslashreplace")
        return {"file": str(path), "line": self.line, "offset": self.offset, "reason": self.reason, "raw": raw}


class Record(NamedTuple):
    """The bytes of one record, or its first ones and what is wrong with it."""

    line: int
    offset: int
    raw: bytes
    problem: str = ""
    damaged: bool = False

    def reject(self, reason: str) -> Reject:
        return Reject(self.line, self.offset, reason, self.raw[:SHOWN_BYTES], self.damaged)


class ByteReader:
    """Lines out of blocks. ``read(n)`` gives up to n bytes, b"" at the end; always asked for ``BLOCK``.

    ``broken``: exceptions of ``read`` that mean a damaged file. They end the stream and set ``damage``, so that what
    came before is not lost. ``seek`` moves ``read`` to a byte, where that is possible.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        seek: Callable[[int], Any] | None = None,
        broken: tuple[type[BaseException], ...] = (),
    ):
        self._read, self._seek, self._broken = read, seek, broken
        self._buffer, self._at, self._ended = b"", 0, False
        self.offset, self.damage = 0, ""

    def _fill(self) -> bool:
        if self._ended:
            return False
        block = b""
        try:
            block = self._read(BLOCK)
        except self._broken as error:
            self.damage = f"the compressed file is cut short or damaged ({error})"
        self._ended = not block
        self._buffer, self._at = self._buffer[self._at :] + block, 0
        return bool(block)

    def readline(self, limit: int) -> bytes:
        """The next line with its line feed, at most ``limit`` bytes of it; b"" at the end."""
        searched = self._at
        while (end := self._buffer.find(b"\n", searched, self._at + limit)) < 0:
            unread = len(self._buffer) - self._at
            if unread >= limit or not self._fill():
                end = min(len(self._buffer), self._at + limit) - 1
                break
            searched = self._at + unread
        line = self._buffer[self._at : end + 1]
        self._at = end + 1
        self.offset += len(line)
        return line

    def block(self) -> bytes:
        """Some of the next bytes, b"" at the end."""
        if self._at == len(self._buffer) and not self._fill():
            return b""
        block = self._buffer[self._at :]
        self._at = len(self._buffer)
        self.offset += len(block)
        return block

    def peek(self) -> bytes:
        """Bytes that come next, without taking them."""
        if self._at == len(self._buffer):
            self._fill()
        return self._buffer[self._at :]

    def skip_to(self, offset: int) -> None:
        """Go on at a byte, backwards only where the file can seek."""
        if self._seek:
            self._seek(offset)
            self._buffer, self._at, self._ended, self.offset = b"", 0, False, offset
        while self.offset < offset and (self._at < len(self._buffer) or self._fill()):
            step = min(len(self._buffer) - self._at, offset - self.offset)
            self._at += step
            self.offset += step

    def skip_mark(self) -> None:
        """Take the byte order mark, if one comes."""
        if self.offset == 0 and self.peek()[:3] == b"\xef\xbb\xbf":
            self._at += 3
            self.offset = 3


def records(stream: ByteReader, comma: bytes = b"", line: int = 1) -> Iterator[Record]:
    """Cut a byte stream into records: lines, or (``comma`` given) lines joined until every quoted cell is closed.

    A quote that is never closed costs only the line it stands on: the lines that it had swallowed are read again, one
    by one. ``line``: the number of the first one.
    """
    stream.skip_mark()
    offset, reported = stream.offset, False
    again: deque[bytes] = deque()  # lines to be read once more
    cell = _Quotes(comma) if comma else None

    def next_line() -> bytes:
        return again.popleft() if again else stream.readline(MAX_RECORD_BYTES + 1)

    while raw := next_line():
        lines, size, problem = [raw], len(raw), ""
        if size > MAX_RECORD_BYTES:
            problem = f"longer than {MAX_RECORD_BYTES} bytes"
            while not raw.endswith(b"\n") and (raw := stream.readline(MAX_RECORD_BYTES)):
                size += len(raw)
        elif cell and (inside := cell.open_after(raw, False)):
            while inside and size <= MAX_RECORD_BYTES and (raw := next_line()):
                lines.append(raw)
                size += len(raw)
                inside = cell.open_after(raw, True)
            if inside is not False:
                again.extendleft(reversed(lines[1:]))
                lines, problem = lines[:1], "a double quote is opened and never closed"
                size = len(lines[0])
        if not again and stream.damage and not lines[-1].endswith(b"\n"):
            problem, reported = stream.damage, True
        yield Record(line, offset, b"".join(lines), problem, reported)
        line, offset = line + len(lines), offset + size
    if stream.damage and not reported:
        yield Record(line, offset, b"", stream.damage, damaged=True)


class _Quotes:
    """Follows quoted cells over the lines of a table whose cells end with ``comma``."""

    _TO_CLOSING = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")')

    def __init__(self, comma: bytes):
        self._opening = comma + b'"'
        self._after_closing = (comma, b"\r", b"\n", b"")

    def open_after(self, line: bytes, inside: bool) -> bool | None:
        """Whether a quoted cell is open at the end of ``line``, ``inside`` one or not at its start.

        Only a quote that begins a cell opens it: ``24" screen`` is text. None if something else than a comma or the
        end of the line follows a closing quote.
        """
        place = 0
        if not inside and line.startswith(b'"'):
            inside, place = True, 1
        while True:
            if inside:
                closing = self._TO_CLOSING.match(line, place)
                if not closing:
                    return True
                place = closing.end()
                if line[place : place + 1] not in self._after_closing:
                    return None
            opening = line.find(self._opening, place)
            if opening < 0:
                return False
            inside, place = True, opening + 2


_NEXT = {False: re.compile(rb'["{}\[\],]'), True: re.compile(rb'["\\]')}  # by whether it is inside a string


def array_records(stream: ByteReader, line: int = 1) -> Iterator[Record]:
    """The elements of one JSON array, cut at the commas of its top level. ``stream`` stands inside the array."""
    parts: list[bytes] = []  # of the element, up to MAX_RECORD_BYTES and a block
    size, start, depth, quoted, escaped, ended = 0, stream.offset, 0, False, False, False

    def element() -> Iterator[Record]:
        nonlocal line, start, size
        raw = b"".join(parts)
        body = raw.lstrip()
        lead = len(raw) - len(body)
        problem = f"longer than {MAX_RECORD_BYTES} bytes" if size > MAX_RECORD_BYTES else ""
        if body:
            yield Record(line + raw.count(b"\n", 0, lead), start + lead, body.rstrip(), problem)
        line, start, size = line + newlines, start + size + 1, 0
        parts.clear()

    newlines = 0
    while not ended and (block := stream.block()):
        at = begin = 0
        while at < len(block):
            if escaped:
                at, escaped = at + 1, False
                continue
            found = _NEXT[quoted].search(block, at)
            if not found:
                break
            at, sign = found.end(), found.group()
            if sign == b'"':
                quoted = not quoted
            elif sign == b"\\":
                escaped = True
            elif sign in b"{[":
                depth += 1
            elif depth and sign in b"}]":
                depth -= 1
            elif not depth and sign in b",]":
                piece = block[begin : at - 1]
                size, newlines = size + len(piece), newlines + piece.count(b"\n")
                parts.append(piece)
                yield from element()
                begin, newlines = at, 0
                if sign == b"]":
                    ended = True
                    break
        if not ended:
            piece = block[begin:]
            size, newlines = size + len(piece), newlines + piece.count(b"\n")
            if sum(map(len, parts)) <= MAX_RECORD_BYTES:
                parts.append(piece)
    if not ended:
        raw = b"".join(parts)
        lead = len(raw) - len(raw.lstrip())
        place = line + raw.count(b"\n", 0, lead), start + lead
        reason = stream.damage or "the file ends before its JSON array does"
        yield Record(*place, raw.strip()[:SHOWN_BYTES], reason, damaged=bool(stream.damage))
