"""A kill-safe run of a job: locked, journalled, resumable; its output appears whole and once.

Whatever ends a run (Ctrl-C, SIGKILL, a full disk, a power cut), the same command with ``--resume`` goes on behind the
last chunk that is certainly on the disk, and the bytes are those of a run that was never ended.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cache as caching
from . import job as jobs
from .appendfile import AppendFile, sync_directory
from .bundle import check_free
from .cache import Remembered, ScoreCache
from .columns import NO_EXTRAS, Columns, Extras
from .errors import InputError, Interrupted, JirgeeError
from .job import Chunk, score_files
from .journal import Journal, Mark, State, check_same, describe_bundle, describe_inputs, load
from .lock import Lock
from .machine import cpu_model
from .scorer import Scorer
from .sinks import Sink, beside, publish
from .summary import Summary

SAVE_SECONDS = 0.5  # between two marks in the journal, at least: each costs a few fsyncs


@dataclass(frozen=True)
class Task:
    """What to score and how. ``resume``: go on with an unfinished run if there is one. ``overwrite``: replace finished
    files, and give up an unfinished run when it is not resumed.
    """

    inputs: Sequence[Path]
    output: Path
    text_column: str = "text"
    format: str | None = None
    rejects: Path | None = None
    max_rejects: int | None = None
    extras: Extras = NO_EXTRAS
    resume: bool = False
    overwrite: bool = False

    @property
    def finals(self) -> list[Path]:
        """The files that will be there in the end, the output last."""
        return [*([self.rejects] if self.rejects else []), self.output]


def check_task(task: Task) -> State | None:
    """The unfinished run that ``task`` goes on with. Raises InputError for a task that cannot begin."""
    state = load(beside(task.output, "journal"))
    if state and not state.mark and not state.done:
        state = None  # killed before anything was done
    if task.resume and state:
        return state
    if state and not task.overwrite:
        rows = f" ({state.mark.counts['rows']} rows read)" if state.mark else ""
        raise InputError(
            f"an unfinished run of it is there{rows}; pass --resume to go on or --overwrite to start over", task.output
        )
    for path in task.finals:
        check_free(path, task.overwrite)
    return None


def finished_before(task: Task) -> bool:
    """Whether ``task`` resumes what is finished: no journal, and an output that is newer than every input.

    A run may have been killed when nothing but its lock was left; then that goes too.
    """
    if not task.resume or task.overwrite or load(beside(task.output, "journal")) or not task.output.is_file():
        return False
    made = task.output.stat().st_mtime_ns
    if any(path.stat().st_mtime_ns > made for path in task.inputs):
        return False
    lock = beside(task.output, "lock")
    if lock.exists():
        with Lock(lock, task.output):
            pass
    return True


def identify(task: Task, scorer: Scorer) -> dict[str, Any]:
    """What must be the same for two runs to give the same bytes."""
    from . import __version__

    return {
        "jirgee": [__version__, jobs.chunk_size(scorer), jobs.CHUNK_BYTES, caching.CACHED_TEXTS],
        "bundle": describe_bundle(scorer.bundle),
        "inputs": describe_inputs(task.inputs),
        "options": {
            "--text-column": task.text_column,
            "--format": task.format,
            "--flags": task.extras.flags,
            "--abstain-below": task.extras.abstain_below or None,
            "--rejects": str(task.rejects.resolve()) if task.rejects else None,
            "--device": scorer.device,
            "token budget": scorer.token_budget,
        },
        "machine": cpu_model(),
    }


def run(
    task: Task,
    scorer: Scorer,
    progress: Callable[[int], Any] = lambda rows: None,
    consumed: Callable[[int, int], Any] | None = None,
) -> Summary:
    """Do ``task``, or what is left of it. ``scorer`` must not remember scores of its own.

    Raises InputError where it cannot begin or go on (with a hint to ``--resume`` if that helps) and Interrupted.
    """
    with Lock(beside(task.output, "lock"), task.output):
        state = check_task(task)
        job = identify(task, scorer)
        if state:
            check_same(task.output, state.job, job)
            if state.job["machine"] != job["machine"]:
                warnings.warn(
                    f"{task.output}: the run began on another processor ({state.job['machine']}); the scores of the "
                    "rest may differ in the last digits from what it would have given",
                    RuntimeWarning,
                    stacklevel=2,
                )
            if state.done:
                _publish(task, state.done)
                return Summary.from_json(state.mark.counts) if state.mark else Summary()
        return _Run(task, scorer, job, state).go(progress, consumed)


class _Run:
    """The files of one run, open."""

    def __init__(self, task: Task, scorer: Scorer, job: dict[str, Any], state: State | None):
        self.task, self.scorer, self.saved = task, scorer, -SAVE_SECONDS
        self.start = mark = state.mark if state else None
        self.cache = ScoreCache(scorer.bundle.labels, caching.CACHED_TEXTS)
        self.scores_path = beside(task.output, "scores")
        opened: list[Any] = []
        try:
            if not state:  # first of all: a journal must never speak of files that are gone
                with _disk(task.output):
                    beside(task.output, "journal").unlink(missing_ok=True)
            self.sink = Sink(task.output, columns=mark.columns if mark else None, at=mark.output if mark else None)
            opened.append(self.sink)
            self.rejects = None
            if task.rejects:
                at = mark.rejects if mark and state and state.job["options"]["--rejects"] else None
                self.rejects = Sink(task.rejects, "jsonl", at=at)
                opened.append(self.rejects)
            with _disk(task.output):
                if mark:
                    self.cache.restore(_tail(self.scores_path, mark.scores, self.cache.tail))
                self.scores = AppendFile(self.scores_path, mark.scores if mark else None)
                self.journal = Journal(beside(task.output, "journal"), job, state)
                for path in {path.parent for path in task.finals}:
                    sync_directory(path)
        except BaseException:
            for sink in opened:
                sink.keep() if state else sink.discard()
            if not state:
                self.scores_path.unlink(missing_ok=True)
                beside(task.output, "journal").unlink(missing_ok=True)
            raise

    def go(self, progress: Callable[[int], Any], consumed: Callable[[int, int], Any] | None) -> Summary:
        task = self.task
        try:
            summary = score_files(
                self.scorer,
                task.inputs,
                self.sink,
                task.text_column,
                task.format,
                self.rejects,
                progress,
                extras=task.extras,
                max_rejects=task.max_rejects,
                consumed=consumed,
                cache=self.cache,
                start=self.start,
                save=self.save,
            )
            sinks = [*([self.rejects] if self.rejects else []), self.sink]
            files = [(sink.finish(), sink.path) for sink in sinks]
            with _disk(task.output):
                self.journal.done(files)
        except KeyboardInterrupt:
            self.keep()
            raise Interrupted("--resume", self.journal.path) from None
        except JirgeeError as error:
            if self.journal.mark:
                self.keep()
                error.args = (f"{error}; what is done is kept: give the same command with --resume to go on",)
            else:
                self.discard()
            raise
        except BaseException:
            self.keep()
            raise
        self.keep()
        _publish(task, files)
        return summary

    def save(self, chunk: Chunk, scored: Remembered, summary: Summary, columns: Columns | None) -> None:
        """After each chunk: write it; now and then, make sure of it."""
        self.sink.flush()
        if self.rejects:
            self.rejects.flush()
        with _disk(self.task.output):
            self.scores.write(scored.fresh)
        if time.monotonic() - self.saved < SAVE_SECONDS:
            return
        output = self.sink.commit()
        rejects = self.rejects.commit() if self.rejects else 0
        with _disk(self.task.output):
            self.scores.sync()
            place = chunk.place
            self.journal.save(
                Mark(
                    file=chunk.file,
                    line=place.line if place else 0,
                    offset=place.offset if place else -1,
                    output=output,
                    rejects=rejects,
                    scores=self.scores.size,
                    columns=self.sink.columns,
                    prefix=columns.prefix if columns else None,
                    counts=summary.to_json(),
                )
            )
        self.saved = time.monotonic()

    def keep(self) -> None:
        self.sink.keep()
        if self.rejects:
            self.rejects.keep()
        for file in (self.scores, self.journal):
            with suppress(OSError):
                file.close()

    def discard(self) -> None:
        self.keep()
        self.sink.discard()
        if self.rejects:
            self.rejects.discard()
        self.journal.path.unlink(missing_ok=True)
        self.scores_path.unlink(missing_ok=True)


def _publish(task: Task, files: Sequence[tuple[Path, Path]]) -> None:
    """Give finished files their names, also when a run before this one has begun to; then the journal goes."""
    with _disk(task.output):
        for staged, final in files:
            if staged.exists():
                publish(staged, final)
        for path in task.finals:
            beside(path, "partial").unlink(missing_ok=True)
        beside(task.output, "scores").unlink(missing_ok=True)
        beside(task.output, "journal").unlink(missing_ok=True)


@contextmanager
def _disk(path: Path):
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", path) from None


def _tail(path: Path, size: int, most: int) -> bytes:
    """The last ``most`` bytes of the first ``size`` of a file."""
    with path.open("rb") as stream:
        stream.seek(max(0, size - most))
        return stream.read(size - stream.tell())
