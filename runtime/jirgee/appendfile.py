"""A file that only grows: every write is complete or an error, and ``size`` counts only what was written whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

open_raw: Callable[[Path, str], Any] = lambda path, mode: path.open(mode, buffering=0)  # noqa: E731
fsync: Callable[[int], None] = os.fsync


class AppendFile:
    """New and empty, or (``at``) an existing file cut back to its first ``at`` bytes. Raises OSError."""

    def __init__(self, path: Path, at: int | None = None):
        self.path, self.size = path, at or 0
        self._raw = open_raw(path, "wb" if at is None else "r+b")
        if at is not None:
            if os.fstat(self._raw.fileno()).st_size < at:
                self._raw.close()
                raise OSError(errno.EIO, f"shorter than the {at} bytes that the journal says; start over")
            self._raw.truncate(at)
            self._raw.seek(at)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = self._raw.write(rest)
            if not written:
                raise OSError(errno.EIO, "nothing could be written")
            rest = rest[written:]
        self.size += len(data)

    def sync(self) -> None:
        """Return when everything is on the disk."""
        fsync(self._raw.fileno())

    def close(self) -> None:
        self._raw.close()


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
