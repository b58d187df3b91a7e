"""How far a run is: a bar with rate and time left on a terminal, or JSON lines for a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from .summary import Summary

EVERY = 60.0  # seconds between two lines of a log


class Progress:
    """``style``: ``bar``, ``log`` or ``none``. Time left comes from the share of the input's bytes that are read."""

    def __init__(self, style: str, inputs: Sequence[Path], out: IO[str] | None = None):
        self._style, self._out = style, out or sys.stderr
        self._sizes = [path.stat().st_size for path in inputs]
        self._before = [sum(self._sizes[:index]) for index in range(len(self._sizes))]
        self._total = sum(self._sizes)
        self._read = self._rows = 0
        self._first: int | None = None  # byte at which this run began to read
        self._began = self._last = time.monotonic()
        self._bar: Any = None
        if style == "bar":
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit="B", unit_scale=True, file=self._out, leave=False)

    def consumed(self, file: int, count: int) -> None:
        """``count`` bytes of input ``file`` are read."""
        self._read = self._before[file] + min(count, self._sizes[file])
        if self._first is None:
            self._first = self._read

    def scored(self, rows: int) -> None:
        """So many more rows are written."""
        self._rows += rows
        now = time.monotonic()
        seconds = now - self._began
        if self._bar is not None:
            self._bar.n = self._read
            self._bar.set_postfix_str(f"{self._rows:,} rows, {self._rows / max(seconds, 1e-9):.0f} rows/s")
        if self._style == "log" and now - self._last >= EVERY:
            self._last = now
            done = self._read - (self._first or 0)
            left = (self._total - self._read) * seconds / done if done else None
            figures = {
                "event": "progress",
                "rows": self._rows,
                "rows_per_second": round(self._rows / seconds, 1),
                "read_share": round(self._read / max(self._total, 1), 4),
                "seconds": round(seconds, 1),
                "seconds_left": None if left is None else round(left),
            }
            print(json.dumps(figures), file=self._out, flush=True)

    def end(self, output: Path, summary: Summary) -> None:
        """Say what was done."""
        self.close()
        if self._style == "log":
            figures = {"event": "done", "output": str(output)} | summary.figures()
            print(json.dumps(figures, ensure_ascii=False), file=self._out, flush=True)
        elif self._style != "quiet":
            print(f"{output}: {summary.line()}", file=self._out)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
