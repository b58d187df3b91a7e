"""Rows on one stream, JSON lines on another, as they come: what waits is scored together, nothing waits for more."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .columns import NO_EXTRAS, Columns, Extras
from .errors import InputError
from .formats import FORMATS
from .labelled import checked_text
from .records import ByteReader, Reject, Row, records
from .scorer import Scorer
from .writers import extended_line

MAX_WAITING = 2048
STREAMS = ("text", "jsonl", "csv", "tsv", "tsv-quoted")
_STDIN = Path("standard input")


def score_stream(
    scorer: Scorer,
    source: Any,
    out: IO[str],
    format: str = "text",
    text_column: str = "text",
    extras: Extras = NO_EXTRAS,
    warn: IO[str] | None = None,
) -> int:
    """Score each row of ``source`` and write a JSON line for it, flushed. Returns the count.

    ``source``: a binary stream, best an unbuffered one: a thread waits in its ``read`` to the end of the process, and
    Python aborts if that thread then holds a buffer's lock. ``format``: one of ``STREAMS``. In ``text``, one text a
    line, every line is answered: bytes that are not UTF-8 become U+FFFD and a line of more than a megabyte is cut. In
    the others a row that cannot be read is named on ``warn`` (by default standard error) and left out. Stops at the end
    of ``source``; raises InputError if it cannot be read, BrokenPipeError if ``out`` is closed.
    """
    if format not in STREAMS:
        raise InputError(f"{format} cannot be read from a stream; write it to a file first", _STDIN)
    lines: queue.Queue[Row | Reject | OSError | InputError | None] = queue.Queue(MAX_WAITING)

    def read() -> None:
        stream = ByteReader(getattr(source, "read1", source.read))
        try:
            for item in _texts(stream) if format == "text" else FORMATS[format].read(_STDIN, stream, None):  # type: ignore[misc]
                lines.put(item)
        except (OSError, InputError) as error:
            lines.put(error)
        lines.put(None)

    threading.Thread(target=read, name="jirgee-stdin", daemon=True).start()
    columns: Columns | None = None
    count, ended = 0, False
    while not ended:
        waiting = [lines.get()]
        while len(waiting) < MAX_WAITING and not lines.empty():
            waiting.append(lines.get())
        if waiting[-1] is None:
            ended = True
            waiting.pop()
        rows: list[Row] = []
        texts: list[str] = []
        for item in waiting:
            try:
                if isinstance(item, Reject):
                    raise InputError(item.reason, _STDIN, item.line)
                if isinstance(item, Row):
                    texts.append(
                        checked_text(item.record, text_column if format != "text" else "text", _STDIN, item.line)
                    )
                    rows.append(item)
            except InputError as error:
                print(f"jirgee: {error}; left out", file=warn or sys.stderr)
        if rows:
            columns = columns or Columns.beside(rows[0].record, scorer.bundle.labels, True, extras)
            for row, added in zip(rows, columns.cells(scorer.score(texts), texts), strict=True):
                out.write(extended_line(row.record, added, row.origin))
            out.flush()
        count += len(rows)
        for item in waiting:
            if isinstance(item, InputError):
                raise item
            if isinstance(item, OSError):
                raise InputError(item.strerror or str(item), _STDIN)
    return count


def _texts(stream: ByteReader) -> Iterator[Row]:
    for record in records(stream):
        text = record.raw.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
        yield Row({"text": text}, record.line, record.offset)
