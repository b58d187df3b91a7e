"""What Ray's processes do in a run of ``engine_ray``: read inputs into chunks, score chunks.

Whatever is lost with a process is done again by another one; a chunk depends on the input alone.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cache import ScoreCache
from .columns import Columns
from .errors import JirgeeError
from .job import CHUNK, Chunk, Reader
from .labelled import checked_text
from .parquet import pyarrow
from .run import Task
from .scorer import Scorer
from .summary import Summary


@dataclass
class Part:
    """A chunk on its way through Ray, or what went wrong. ``read``: bytes of input ``file`` read so far."""

    file: int
    chunk: Chunk = field(default_factory=lambda: Chunk(0))
    read: int = 0
    error: JirgeeError | None = None
    added: list[dict[str, Any]] = field(default_factory=list)
    done: Summary = field(default_factory=Summary)

    def pack(self) -> Any:
        """As a block of Ray Data: a table of one row."""
        return pyarrow().table({"part": [pickle.dumps(self, protocol=5)]})

    @staticmethod
    def unpack(block: Any) -> Part:
        return pickle.loads(block["part"][0].as_buffer())


def read(block: Any, task: Task, columns: Columns) -> Iterator[Any]:
    """A task of Ray: indices of inputs -> their chunks."""

    def check(record: dict[str, Any], path: Path, line: int) -> str:
        columns.check(record, path, line)
        return checked_text(record, task.text_column, path, line)

    def consumed(_: int, count: int) -> None:
        part.read = count

    for file in block["item"].to_pylist():
        part, clock = Part(file), time.perf_counter()
        try:
            reader = Reader([task.inputs[file]], task.format, check, task.rejects is not None, None, consumed, CHUNK)
            for part.chunk in reader.chunks(None, 0):
                part.done.read_seconds = time.perf_counter() - clock
                yield part.pack()
                clock = time.perf_counter()
        except JirgeeError as error:  # told in order, by the one that gathers
            yield Part(file, error=error).pack()


class Worker:
    """An actor of Ray: scores chunks with a ``Scorer`` of its own, on one thread."""

    def __init__(self, bundle: Path, device: str, columns: Columns):
        self.load = lambda: Scorer.load(bundle, device, threads=1)
        self.columns, self.cache, self.scorer = columns, ScoreCache(columns.classes), None

    def __call__(self, block: Any) -> Any:
        part, clock = Part.unpack(block), time.perf_counter()
        if part.error:
            return part.pack()
        chunk, done = part.chunk, part.done
        try:
            self.scorer = self.scorer or self.load()
            scored = self.cache.score(self.scorer.score, chunk.texts)
        except JirgeeError as error:
            return Part(part.file, error=error).pack()
        part.added = list(self.columns.cells(scored.scores, chunk.texts))
        done.rows, done.scored, done.rejected = chunk.taken, len(chunk.rows), len(chunk.rejects)
        done.repeats, done.truncated = len(chunk.rows) - scored.computed, int(scored.scores.truncated.sum())
        done.tokens, done.planned = scored.scores.tokens, scored.scores.planned
        done.score_seconds = time.perf_counter() - clock
        return part.pack()
