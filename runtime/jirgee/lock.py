"""One writer at a time: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None


class Lock:
    """Held in a ``with`` block. Where another process holds it, waits (``wait``) or raises InputError, naming it."""

    def __init__(self, path: Path, what: Path, wait: bool = False):
        self.path, self._what, self._wait = path, what, wait
        self._file = -1

    def __enter__(self) -> Lock:
        if fcntl is None:
            return self
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
                    if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                        break
                except BlockingIOError:
                    holder = os.read(self._file, 20).decode("ascii", "replace").strip() or "?"
                    os.close(self._file)
                    raise InputError(
                        f"another jirgee (process {holder}) is writing it; wait for it, or write to another file",
                        self._what,
                    ) from None
                except FileNotFoundError:
                    pass  # its holder has just ended and taken it away
                os.close(self._file)
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise InputError(error.strerror or str(error), self._what) from None
        return self

    def __exit__(self, *exception: object) -> None:
        if fcntl is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
