"""How a machine's processors are shared out: worker threads, threads inside an operator, tokens of a batch.

``jirgee tune`` measures layouts and keeps the best in a small JSON file in the user's cache directory, named after the
bundle and holding what it was measured on; ``Scorer.load`` takes it where nothing else is asked for. A file that
cannot be read, or is of another machine, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .machine import cpu_count, cpu_model, user_cache
from .providers import DEVICES

TOKEN_BUDGET = dict.fromkeys(DEVICES, 16384) | {"cpu": 512}  # tokens of one batch, padding included
LARGEST_BUDGET = 1 << 20
FORMAT = 1


@dataclass(frozen=True)
class Layout:
    """``workers``: batches computed at once. ``inner``: threads that compute one batch together. ``token_budget``: of
    one batch, padding included. ``lean``: keep nothing of one batch for the next, and take a job in small chunks.
    """

    workers: int
    inner: int
    token_budget: int
    lean: bool = False


LOW_MEMORY = Layout(workers=1, inner=1, token_budget=128, lean=True)


def default(device: str, threads: int | None = None) -> Layout:
    """Without a measurement: as many workers as there are processors, each on its own."""
    return Layout(threads or (cpu_count() if device == "cpu" else 1), 1, TOKEN_BUDGET[device])


def candidates(processors: int) -> list[Layout]:
    """Layouts that use all ``processors``: all of them on batches of their own, or all on one."""
    shapes = [(processors, 1), *([(1, processors)] if processors > 1 else [])]
    return [Layout(workers, inner, budget) for budget in (256, 512, 1024) for workers, inner in shapes]


def remember(bundle: Bundle, layout: Layout, measured: dict[str, Any]) -> Path:
    """Keep ``layout`` for this bundle on this machine; returns the file. Raises OSError."""
    path = _path(bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"format": FORMAT, "machine": _machine(), "layout": asdict(layout), "measured": measured}
    staging = path.with_suffix(f".{os.getpid()}")
    staging.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(staging, path)
    return path


def remembered(bundle: Bundle) -> Layout | None:
    """What ``remember`` kept, if it is of this machine and makes sense."""
    try:
        data = json.loads(_path(bundle).read_text(encoding="utf-8"))
        layout = Layout(**data["layout"])
        sound = (
            data["format"] == FORMAT
            and data["machine"] == _machine()
            and all(type(value) is int and value > 0 for value in (layout.workers, layout.inner, layout.token_budget))
            and layout.lean is False
            and layout.workers * layout.inner <= cpu_count()
            and layout.token_budget <= LARGEST_BUDGET
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError):
        return None
    return layout if sound else None


def _machine() -> dict[str, Any]:
    return {"cpu": cpu_model(), "cpus": cpu_count(), "arch": platform.machine()}


def _path(bundle: Bundle) -> Path:
    """Raises RuntimeError where there is no home directory."""
    return user_cache() / "layouts" / f"{fingerprint(bundle)}.json"


def fingerprint(bundle: Bundle) -> str:
    """A name for what is kept about this very bundle: of the hashes of all its files."""
    return hashlib.sha256(repr(sorted(bundle.files.items())).encode()).hexdigest()[:32]
