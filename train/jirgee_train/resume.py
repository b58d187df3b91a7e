"""The folder ``OUTPUT.work`` beside an output: the state from which an interrupted training run goes on.

``run.json`` says what the run is: its recipe, and hashes of its rows and of the base. ``checkpoint-STEP`` is a
``transformers.Trainer`` checkpoint that counts only once ``complete.json`` is in it, written last and synced, so that
a kill or a power cut in the middle of a save costs nothing but that save. There is one such checkpoint, and a second
one while it is being written. Nothing here needs PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jirgee.checkpoint import read_json
from jirgee.errors import InputError
from jirgee.lock import Lock

from .data import Dataset
from .recipe import Recipe

RUN = "run.json"
COMPLETE = "complete.json"


def work_of(out: Path) -> Path:
    """The work folder of an output."""
    out = Path(os.path.abspath(out))
    return out.with_name(f"{out.name}.work")


def lock_of(out: Path) -> Lock:
    """What one run at a time holds that writes ``out`` and its work folder."""
    out = Path(os.path.abspath(out))
    return Lock(out.with_name(f".{out.name}.lock"), out)


def check_alone(out: Path) -> None:
    """Raise InputError if another run is at it, before this one has taken the time to read anything."""
    lock = lock_of(out)
    if lock.path.exists():
        with lock:
            pass


def check_work(out: Path, resume: bool, overwrite: bool) -> None:
    """Raise InputError if another run is at it, or an interrupted one is there and neither flag says what to do."""
    check_alone(out)
    work = work_of(out)
    if not os.path.lexists(work):
        return
    if not resume and not overwrite:
        raise InputError("an interrupted run is there; go on with --resume, or start over with --overwrite", work)
    if not work.is_dir() or (any(work.iterdir()) and not (work / RUN).is_file()):
        raise InputError("is in the way and is not the folder of a training run; move it or choose another -o", work)


def facts(recipe: Recipe, data: Dataset, base: str, processes: int) -> dict[str, Any]:
    """What must be the same for a run to go on; ``base``: a hash of the encoder and its tokenizer."""
    digest = hashlib.sha256()
    for part in (data.train, data.dev):
        for row in zip(part.texts, part.labels, strict=True):
            digest.update(json.dumps(row).encode())
        digest.update(b"\n")
    choices = asdict(recipe)
    del choices["base"]  # the same base may be reached by another path
    return {"recipe": choices, "data": digest.hexdigest(), "base": base, "processes": processes}


def open_work(work: Path, now: dict[str, Any], resume: bool) -> Path | None:
    """Make the folder ready for the run that ``now`` (of ``facts``) describes.

    Returns the checkpoint to go on from, None to start at the beginning. Raises InputError, naming what changed, if
    there is one to go on from that belongs to another run.
    """
    found = latest(work) if resume else None
    if found is None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_synced(work / RUN, now)
        return None
    before = read_json(work / RUN)
    for name in ("data", "base", "recipe", "processes"):
        if before.get(name) != now[name]:
            raise InputError(
                f"the {_change(name, before.get(name), now[name])} since this run was interrupted; go on with what it "
                "had, or start over with --overwrite",
                work,
            )
    keep_only(work, found)
    return found


def _change(name: str, before: Any, now: Any) -> str:
    if name == "recipe" and isinstance(before, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return "recipe changed (" + ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys) + ")"
    if name == "processes":
        return f"number of processes changed (was {before}, is {now})"
    return {"data": "rows of the data changed", "base": "base model changed"}.get(name, f"{name} changed")


def latest(work: Path) -> Path | None:
    """The complete checkpoint of the highest step."""
    found = [path.parent for path in work.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def complete(checkpoint: Path, seconds: float) -> None:
    """Declare a checkpoint whole, once all of it is on the disk, and delete the others. ``seconds``: trained so far."""
    for path in checkpoint.iterdir():
        _sync(path)
    write_synced(checkpoint / COMPLETE, {"seconds": seconds})
    keep_only(checkpoint.parent, checkpoint)


def seconds_of(checkpoint: Path) -> float:
    """How long the run had trained when this checkpoint was made."""
    return float(read_json(checkpoint / COMPLETE)["seconds"])


def keep_only(work: Path, checkpoint: Path) -> None:
    for path in work.glob("checkpoint-*"):
        if path.name != checkpoint.name:
            (path / COMPLETE).unlink(missing_ok=True)  # first, so that one half deleted does not count
            shutil.rmtree(path, ignore_errors=True)


def write_synced(path: Path, data: dict[str, Any]) -> None:
    """Write JSON that is either whole or not there, even after a power cut."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(fresh)
    os.replace(fresh, path)
    if os.name == "posix":
        _sync(path.parent)
        _sync(path.parent.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
