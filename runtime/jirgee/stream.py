"""Texts on one stream, JSON lines on another, as they come: what waits is scored together, nothing waits for more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import IO, Any

from .errors import InputError
from .job import Columns
from .rows import json_line
from .scorer import Scorer

MAX_WAITING = 2048


def score_stream(scorer: Scorer, source: Any, out: IO[str]) -> int:
    """Score each line of ``source`` (UTF-8, one text a line) and write a JSON line for it, flushed. Returns the count.

    ``source``: a binary stream, best an unbuffered one: a thread waits in its ``read`` to the end of the process, and
    Python aborts if that thread then holds a buffer's lock. Bytes that are not UTF-8 become U+FFFD. Stops at the end of
    ``source``; raises InputError if it cannot be read, BrokenPipeError if ``out`` is closed.
    """
    lines: queue.Queue[str | OSError | None] = queue.Queue(MAX_WAITING)

    def read() -> None:
        try:
            for raw in _lines(source):
                lines.put(raw.decode("utf-8", "replace").removesuffix("\r"))
        except OSError as error:
            lines.put(error)
        lines.put(None)

    threading.Thread(target=read, name="jirgee-stdin", daemon=True).start()
    columns = Columns.beside({}, scorer.bundle.labels, nested=True)
    count, ended = 0, False
    while not ended:
        waiting = [lines.get()]
        while len(waiting) < MAX_WAITING and not lines.empty():
            waiting.append(lines.get())
        if waiting[-1] is None:
            ended = True
            waiting.pop()
        texts = [text for text in waiting if isinstance(text, str)]
        for text, added in zip(texts, columns.cells(scorer.score(texts)), strict=True):
            out.write(json_line({"text": text} | added))
        out.flush()
        count += len(texts)
        for item in waiting:
            if isinstance(item, OSError):
                raise InputError(item.strerror or str(item), "standard input")
    return count


def _lines(source: Any) -> Iterator[bytes]:
    """Lines without their ends, each as soon as it is there."""
    read = getattr(source, "read1", source.read)
    parts: list[bytes] = []  # of a line whose end has not come
    while block := read(1 << 16):
        first, *rest = block.split(b"\n")
        parts.append(first)
        if rest:
            yield b"".join(parts)
            yield from rest[:-1]
            parts = [rest[-1]]
    if last := b"".join(parts):
        yield last
