"""Texts on one stream, JSON lines on another, as they come: what waits is scored together, nothing waits for more."""

from __future__ import annotations

import queue
import threading
from typing import IO

from .job import Columns
from .rows import json_line
from .scorer import Scorer

MAX_WAITING = 2048


def score_stream(scorer: Scorer, source: IO[bytes], out: IO[str]) -> int:
    """Score each line of ``source`` (UTF-8, one text a line) and write a JSON line for it, flushed. Returns the count.

    Bytes that are not UTF-8 become U+FFFD. Stops at the end of ``source``; raises BrokenPipeError if ``out`` is closed.
    """
    lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING)

    def read() -> None:
        for raw in source:
            lines.put(raw.decode("utf-8", "replace").rstrip("\r\n"))
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
        texts = [text for text in waiting if text is not None]
        for text, added in zip(texts, columns.cells(scorer.score(texts)), strict=True):
            out.write(json_line({"text": text} | added))
        out.flush()
        count += len(texts)
    return count
