"""A file-scoring run: sources in, one sink out, rows in input order.

Reading and writing overlap with scoring: while one chunk of rows is computed, the next is read and the one before is
written. Memory holds a few chunks, whatever the size of the files. What a chunk is depends on the input alone, so that
a run that goes on after a kill forms the same ones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cache import Remembered, ScoreCache
from .columns import NO_EXTRAS, Columns, Extras
from .errors import InputError, JirgeeError
from .journal import Mark
from .labelled import checked_text
from .rows import Place, Reject, Row, Sink, read_items
from .scorer import Scorer
from .sources import UnreadableFile
from .summary import Summary
from .writers import json_line

CHUNK = 4096  # records taken together: two windows of the scorer
LEAN_CHUNK = 1024  # where memory is short; three chunks are there at once, read, computed and written
CHUNK_BYTES = 1 << 23  # and no more of them than this

__all__ = ["CHUNK", "Chunk", "Columns", "Extras", "Summary", "score_files"]


@dataclass
class Chunk:
    """Records that follow one another. ``place``: where the last one starts in input ``file``; None: at its end."""

    file: int
    place: Place | None = None
    rows: list[Row] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    taken: int = 0
    size: int = 0


Save = Callable[[Chunk, Remembered, Summary, Columns | None], Any]


def score_files(
    scorer: Scorer,
    inputs: Sequence[Path],
    sink: Sink,
    text_column: str = "text",
    format: str | None = None,
    rejects: Sink | None = None,
    progress: Callable[[int], Any] = lambda rows: None,
    *,
    extras: Extras = NO_EXTRAS,
    max_rejects: int | None = None,
    consumed: Callable[[int, int], Any] | None = None,
    cache: ScoreCache | None = None,
    start: Mark | None = None,
    save: Save | None = None,
) -> Summary:
    """Score every row of ``inputs`` into ``sink``. ``progress`` is called with the number of rows just finished.

    A row that cannot be read or has no text goes to ``rejects``; without it, it raises InputError (file and line), and
    so do more than ``max_rejects``. ``consumed`` is called with the index of an input and the bytes of it read.
    ``save`` is called after each chunk is written; ``start`` is the mark that the run before left.
    """
    summary, began = Summary(), time.perf_counter()
    columns: Columns | None = None
    if start:
        summary = Summary.from_json(start.counts)
        if start.prefix is not None:
            columns = Columns(start.prefix, scorer.bundle.labels, sink.nested, extras)
    before = summary.seconds
    cache = cache or ScoreCache(scorer.bundle.labels)

    def check(record: dict[str, Any], path: Path, line: int) -> str:
        nonlocal columns
        text = checked_text(record, text_column, path, line)
        if columns is None:
            columns = Columns.beside(record, scorer.bundle.labels, sink.nested, extras)
        columns.check(record, path, line)
        return text

    def compute(texts: list[str]) -> Remembered:
        clock = time.perf_counter()
        scored = cache.score(scorer.score, texts)
        summary.score_seconds += time.perf_counter() - clock
        return scored

    pending: deque[tuple[Chunk, Future[Remembered]]] = deque()

    def finish() -> None:
        chunk, future = pending.popleft()
        scored = future.result()
        clock = time.perf_counter()
        if chunk.rows:
            assert columns
            for row, added in zip(chunk.rows, columns.cells(scored.scores, chunk.texts), strict=True):
                sink.write(row.record, added, row.origin)
        for reject in chunk.rejects:
            assert rejects
            rejects.write(reject)
        summary.rows += chunk.taken
        summary.scored += len(chunk.rows)
        summary.rejected += len(chunk.rejects)
        summary.repeats += len(chunk.rows) - scored.computed
        summary.truncated += int(scored.scores.truncated.sum())
        summary.tokens += scored.scores.tokens
        summary.planned += scored.scores.planned
        summary.seconds = before + time.perf_counter() - began
        if save:
            save(chunk, scored, summary, columns)
        summary.write_seconds += time.perf_counter() - clock
        progress(len(chunk.rows))

    written = sink.rows, rejects.rows if rejects else 0
    first = summary.scored, summary.rejected
    background = ThreadPoolExecutor(1, thread_name_prefix="jirgee-job")
    try:
        reader = Reader(inputs, format, check, rejects is not None, max_rejects, consumed, chunk_size(scorer))
        chunks = reader.chunks(start, summary.rejected)
        while True:
            clock = time.perf_counter()
            chunk = next(chunks, None)
            summary.read_seconds += time.perf_counter() - clock
            if chunk is None:
                break
            pending.append((chunk, background.submit(compute, chunk.texts)))
            if len(pending) > 1:
                finish()
        while pending:
            finish()
    finally:
        background.shutdown(wait=False, cancel_futures=True)
    summary.seconds = before + time.perf_counter() - began
    scored = first[0] + sink.rows - written[0]
    rejected = first[1] + (rejects.rows - written[1] if rejects else 0)
    check_counts(summary, sink.path, scored, rejected)
    return summary


def chunk_size(scorer: Scorer) -> int:
    """Records of a chunk, at most."""
    return min(CHUNK, LEAN_CHUNK) if scorer.layout.lean else CHUNK


def check_counts(summary: Summary, path: Path, scored: int, rejected: int) -> None:
    """Raise JirgeeError unless every row read went to one of two sinks, by what these counted themselves."""
    if summary.rows != scored + rejected:
        raise JirgeeError(
            f"{path}: {summary.rows} rows were read, but {scored} written and {rejected} rejected; "
            "this is a fault of jirgee, please report it"
        )


@dataclass
class Reader:
    """Inputs -> chunks of checked rows. ``check`` gives the text of a record or raises InputError; ``set_aside``:
    whether bad rows are rejects of a chunk, or raise. ``size``: records of a chunk.
    """

    inputs: Sequence[Path]
    format: str | None
    check: Callable[[dict[str, Any], Path, int], str]
    set_aside: bool
    max_rejects: int | None
    consumed: Callable[[int, int], Any] | None
    size: int

    def chunks(self, start: Mark | None, rejected: int) -> Iterator[Chunk]:
        """From behind ``start`` on, before which ``rejected`` records were set aside."""
        first = start.file if start else 0
        chunk = Chunk(first)
        for index in range(first, len(self.inputs)):
            path = self.inputs[index]
            at = Place(start.line, start.offset) if start and index == first and start.offset >= 0 else None
            for item in self._items(index, at):
                chunk.file, chunk.place = index, Place(item.line, item.offset)
                chunk.taken += 1
                if isinstance(item, Row):
                    try:
                        text = self.check(item.record, path, item.line)
                    except InputError as error:
                        if not self.set_aside:
                            raise
                        raw = item.raw or json_line(item.record).encode()
                        item = Reject(item.line, item.offset, error.reason, raw[:4096])
                    else:
                        chunk.rows.append(item)
                        chunk.texts.append(text)
                        chunk.size += item.size
                if isinstance(item, Reject):
                    rejected += 1
                    self._allow(item, path, rejected)
                    chunk.rejects.append(item.to_json(path))
                    chunk.size += len(item.raw)
                    if item.damaged:  # nothing of this file is left
                        chunk.file, chunk.place = index + 1, None
                if chunk.taken >= self.size or chunk.size >= CHUNK_BYTES:
                    yield chunk
                    chunk = Chunk(index)
        if chunk.taken:
            yield chunk

    def _items(self, index: int, at: Place | None) -> Iterator[Row | Reject]:
        path = self.inputs[index]
        consumed = self.consumed and (lambda count: self.consumed(index, count))  # type: ignore[misc]
        try:
            items = read_items(path, self.format, at, consumed)
            if at:
                item = next(items, None)
                if item is None or (item.line, item.offset) != at:
                    raise InputError(f"cannot go on behind line {at.line}: it is not where it was", path)
            yield from items
        except UnreadableFile as error:
            if not self.set_aside:
                raise
            yield Reject(error.line or 1, 0, error.reason, b"", damaged=True)

    def _allow(self, item: Reject, path: Path, count: int) -> None:
        if not self.set_aside:
            place = None if item.damaged else item.line
            raise InputError(f"{item.reason}; pass --rejects FILE to set such rows aside", path, place)
        if self.max_rejects is not None and count > self.max_rejects:
            raise InputError(
                f"{item.reason}; that is reject number {count} and --max-rejects is {self.max_rejects}", path, item.line
            )
