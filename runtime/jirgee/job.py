"""A file-scoring run: sources in, one sink out, rows in input order.

Reading and writing overlap with scoring: while one chunk of rows is computed, the next is read. Memory holds a few
chunks, whatever the size of the files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import InputError
from .labelled import checked_text
from .rows import Reject, Row, Sink, read_rows
from .scorer import Scorer, Scores

CHUNK = 4096  # rows scored together: two windows of the scorer
CACHED_TEXTS = 100_000  # distinct texts whose scores are remembered between chunks


@dataclass
class Summary:
    """What a run did. ``rows`` read = ``scored`` + ``rejected``."""

    rows: int = 0
    scored: int = 0
    rejected: int = 0
    truncated: int = 0
    seconds: float = 0.0

    def line(self) -> str:
        rate = self.scored / self.seconds if self.seconds else 0.0
        return (
            f"{self.rows} rows: {self.scored} scored, {self.rejected} rejected, "
            f"{self.truncated} cut to the token limit; {self.seconds:.1f} s, {rate:.0f} rows/s"
        )


def score_files(
    scorer: Scorer,
    inputs: Sequence[Path],
    sink: Sink,
    text_column: str = "text",
    format: str | None = None,
    rejects: Sink | None = None,
    progress: Callable[[int], Any] = lambda rows: None,
) -> Summary:
    """Score every row of ``inputs`` into ``sink``. ``progress`` is called with the number of rows just finished.

    A row that cannot be read or has no text goes to ``rejects``; without it, it raises InputError (file and line).
    """
    summary, began = Summary(), time.perf_counter()
    columns: Columns | None = None

    def check(record: dict[str, Any], path: Path, line: int) -> None:
        nonlocal columns
        checked_text(record, text_column, path, line)
        columns = columns or Columns.beside(record, scorer.bundle.labels, sink.nested)
        if taken := record.keys() & set(columns.names):
            raise InputError(
                f'has a column "{min(taken)}", which the first row had not and which the added one would replace; '
                "score such rows apart",
                path,
                line,
            )

    with ThreadPoolExecutor(1, thread_name_prefix="jirgee-job") as background:
        pending: deque[tuple[list[Row], Future[Scores]]] = deque()

        def finish() -> None:
            rows, future = pending.popleft()
            scores = future.result()
            assert columns
            for row, added in zip(rows, columns.cells(scores), strict=True):
                sink.write(row.record | added)
            summary.scored += len(rows)
            summary.truncated += int(scores.truncated.sum())
            progress(len(rows))

        good = _good_rows(inputs, format, check, rejects, summary)
        while chunk := list(islice(good, CHUNK)):
            pending.append((chunk, background.submit(scorer.score, [row.record[text_column] for row in chunk])))
            if len(pending) > 1:
                finish()
        while pending:
            finish()
    summary.seconds = time.perf_counter() - began
    return summary


def _good_rows(
    inputs: Sequence[Path],
    format: str | None,
    check: Callable[[dict[str, Any], Path, int], None],
    rejects: Sink | None,
    summary: Summary,
) -> Iterator[Row]:
    for path in inputs:
        for item in read_rows(path, format):
            summary.rows += 1
            if isinstance(item, Row):
                try:
                    check(item.record, path, item.line)
                except InputError as error:
                    if rejects is None:
                        raise
                    item = Reject(item.line, item.offset, error.reason, repr(item.record).encode()[:4096])
            if isinstance(item, Row):
                yield item
            elif rejects is None:
                raise InputError(f"{item.reason}; pass --rejects FILE to set such rows aside", path, item.line)
            else:
                summary.rejected += 1
                rejects.write(item.to_json(path))


@dataclass(frozen=True)
class Columns:
    """The names of the added columns: ``label``, ``score``, ``p_CLASS`` and (in JSON lines) ``probs``.

    Where the input has a column of such a name, which must come through unchanged, all added ones get the prefix
    ``predicted_``, as often as it takes.
    """

    label: str
    score: str
    classes: tuple[str, ...]
    probs: str | None

    @classmethod
    def beside(cls, record: dict[str, Any], classes: Sequence[str], nested: bool) -> Columns:
        plain = ["label", "score", *(f"p_{name}" for name in classes), "probs"]
        prefix = ""
        while any(prefix + name in record for name in plain):
            prefix += "predicted_"
        label, score, *each, probs = (prefix + name for name in plain)
        return cls(label, score, tuple(each), probs if nested else None)

    @property
    def names(self) -> list[str]:
        return [self.label, self.score, *self.classes, *([self.probs] if self.probs else [])]

    def cells(self, scores: Scores) -> Iterator[dict[str, Any]]:
        """The added cells of each row, probabilities rounded to 6 decimals."""
        names = [self.label, self.score, *self.classes]
        for label, values in zip(scores.labels, scores.probs.astype(float).round(6).tolist(), strict=True):
            added = dict(zip(names, (label, max(values), *values), strict=True))
            if self.probs:
                added[self.probs] = dict(zip(scores.classes, values, strict=True))
            yield added
