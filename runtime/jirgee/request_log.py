"""The log of answered texts, on request: one JSON object a line, rotated by size. It holds no texts unless told to."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from .errors import InputError

MAX_BYTES, KEPT = 64 << 20, 4  # of one file; older files that stay (FILE.1 is the youngest of them)


class RequestLog:
    """For one process. ``count``: texts answered so far, those in an existing log included."""

    def __init__(self, path: Path | None, texts: bool = False, max_bytes: int = MAX_BYTES, kept: int = KEPT):
        """``path``: None only counts. Raises InputError if the file cannot be written."""
        self._texts, self._handler, self.count = texts, None, 0
        if path is None:
            return
        try:
            for old in [path.with_name(f"{path.name}.{age}") for age in range(1, kept + 1)] + [path]:
                if old.exists():
                    with old.open("rb") as stream:
                        self.count += sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
            self._handler = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=kept, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write the request log: {error.strerror or error}", path) from None
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def add(self, route: str, text: str, row: Mapping[str, Any]) -> int:
        """Log one answered text; the new count. A full disk is told on standard error and stops nothing."""
        self.count += 1
        if self._handler:
            entry = {
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "route": route,
                "chars": len(text),
                "label": row["label"],
                "score": row["score"],
            }
            if self._texts:
                entry["text"] = text.encode("utf-8", "replace").decode("utf-8")
            line = json.dumps(entry, ensure_ascii=False)
            self._handler.handle(logging.LogRecord("jirgee", logging.INFO, "", 0, line, None, None))
        return self.count

    def close(self) -> None:
        if self._handler:
            self._handler.close()
