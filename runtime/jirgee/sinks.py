"""Rows into a file that grows beside its final name and takes it whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .appendfile import AppendFile, sync_directory
from .compression import COMPRESSIONS
from .errors import InputError
from .formats import FORMATS, WRITABLE, format_of
from .parquet import ParquetPieces
from .writers import TextPieces

PIECE = 1 << 20  # characters gathered before they are written


def beside(path: Path, what: str) -> Path:
    """A hidden file beside an output: its partial form, its journal, its lock."""
    return path.with_name(f".{path.name}.{what}")


class Sink:
    """Writes rows beside ``path`` and renames on ``close``; leaving a ``with`` block by an exception discards them."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        columns: Sequence[str] | None = None,
        at: int | None = None,
    ):
        """``columns``: of a table; by default those of the first row. ``at``: go on behind so many bytes of an
        unfinished file. Raises InputError for a place that cannot be written.
        """
        self.path = Path(path)
        name = format_of(path, format)
        self.nested = name in ("jsonl", "parquet")  # whether a cell can hold an object
        if name not in WRITABLE:
            raise InputError(f"{name} cannot be written; choose {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}", path)
        self._compression = COMPRESSIONS.get(self.path.suffix.lower())
        if self._compression:
            with self._errors():
                self._compression.pack(b"")  # raises MissingPackage now, not after an hour
        write = FORMATS[name].write
        self._pieces = TextPieces(write, list(columns) if columns else None, not at) if write else ParquetPieces()
        self._partial = beside(self.path, "partial")
        self.rows = 0  # written by this object
        with self._errors(""):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = AppendFile(self._partial, at)

    @contextmanager
    def _errors(self, what: str = "cannot write: ") -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise InputError(str(error), self.path) from None
        except OSError as error:
            raise InputError(f"{what}{error.strerror or error}", self.path) from None

    @property
    def columns(self) -> list[str] | None:
        """Of a table, once they are known."""
        return getattr(self._pieces, "columns", None)

    def write(self, row: dict[str, Any], added: dict[str, Any] | None = None, origin: Any = None) -> None:
        """Append one row: its record and the cells added to it. Raises InputError if it does not fit the columns or
        the disk is full. ``origin``: of the ``Row`` that it is.
        """
        try:
            self._pieces.add(row, added or {}, origin)
        except ValueError as error:
            raise InputError(str(error), self.path) from None
        if len(self._pieces) > PIECE:
            self.flush()
        self.rows += 1

    def _put(self) -> None:
        if data := self._pieces.take():
            self._file.write(self._compression.pack(data) if self._compression else data)

    def flush(self) -> None:
        """End a piece: what comes next does not change the bytes of what came before."""
        with self._errors():
            self._put()

    def commit(self) -> int:
        """Put everything written so far on the disk; returns the length of the unfinished file."""
        with self._errors():
            self._put()
            self._file.sync()
        return self._file.size

    def finish(self) -> Path:
        """Complete the file without giving it its name; returns where it is."""
        with self._errors():
            self._put()
            if self._compression and not self._file.size:
                self._file.write(self._compression.pack(b""))
            self._file.sync()
            self._file.close()
            if isinstance(self._pieces, TextPieces):
                return self._partial
            staged = beside(self.path, "staged")
            self._pieces.finish(self._partial, staged)
            with staged.open("rb") as written:
                os.fsync(written.fileno())
            return staged

    def close(self) -> None:
        """Finish: flush to the disk and take the final name."""
        try:
            staged = self.finish()
            with self._errors():
                publish(staged, self.path)
        except InputError:
            self.discard()
            raise
        self._partial.unlink(missing_ok=True)

    def keep(self) -> None:
        """Stop writing and leave the unfinished file for another ``Sink`` to go on with."""
        with suppress(OSError):
            self._file.close()

    def discard(self) -> None:
        """Forget everything written."""
        self.keep()
        self._partial.unlink(missing_ok=True)
        beside(self.path, "staged").unlink(missing_ok=True)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self.discard() if kind else self.close()


def publish(staged: Path, path: Path) -> None:
    """Give a finished file its name, so that it survives a power cut."""
    os.replace(staged, path)
    sync_directory(path.parent)
