"""``jirgee serve`` as a process of its own, on a port that it chooses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Served:
    """A running server. ``stop`` sends a signal and gives the exit code; ``errors``: what it said after its start."""

    def __init__(self, bundle: Path, *arguments: object, launcher: str = "", **environment: str):
        start = ["-c", launcher] if launcher else ["-m", "jirgee.cli"]
        command = [sys.executable, *start, "serve", str(bundle), "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, env=os.environ | environment, text=True, encoding="utf-8"
        )
        self.errors: list[str] = []
        assert self.process.stderr
        for line in self.process.stderr:
            if found := re.search(r"serving .* on (http://127\.0\.0\.1:(\d+)) ", line):
                self.url, self.port = found[1], int(found[2])
                break
            self.errors.append(line)
        else:
            raise AssertionError(f"did not start: {self.errors}")
        self._reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr or []), daemon=True)
        self._reader.start()

    def stop(self, sig: int | None = signal.SIGTERM, timeout: float = 60) -> int:
        if sig is not None and self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code

    def rss(self) -> int:
        """Bytes of resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    def metric(self, name: str) -> float:
        from urllib.request import urlopen

        with urlopen(f"{self.url}/metrics", timeout=30) as answer:
            found = re.findall(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.M)
        return float(found[0]) if found else 0.0

    def score(self, *texts: str) -> list[dict[str, Any]]:
        from urllib.request import Request, urlopen

        body = json.dumps({"texts": texts}).encode()
        request = Request(f"{self.url}/v1/score", body, {"content-type": "application/json"})
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)["results"]


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start servers that end with the test."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    started: list[Served] = []

    def start(*arguments: object, **options: Any) -> Served:
        started.append(Served(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait(30)
