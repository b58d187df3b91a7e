"""A disk that fails, at every single write: one clear error, nothing short under a final name, and a way to go on."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jirgee import appendfile, job, run
from jirgee.errors import InputError
from jirgee.run import Task
from jirgee.scorer import Scorer

really_open, really_sync = appendfile.open_raw, appendfile.fsync


class Disk:
    """Counts the calls that touch the disk; from call ``fail_at`` on each write or fsync fails with ``number``.

    ``short``: a write takes at most so many bytes; the failing one takes them too, before the next one fails.
    """

    def __init__(self, fail_at: int | None = None, number: int = errno.ENOSPC, short: int = 1 << 30):
        self.calls, self.fail_at, self.number, self.short = 0, fail_at, number, short

    def check(self) -> None:
        self.calls += 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise OSError(self.number, {errno.ENOSPC: "No space left on device", errno.EIO: "I/O error"}[self.number])

    def open_raw(self, path: Path, mode: str) -> Any:
        raw = really_open(path, mode)
        return Raw(raw, self)

    def fsync(self, descriptor: int) -> None:
        self.check()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(appendfile, "open_raw", self.open_raw)
        monkeypatch.setattr(appendfile, "fsync", self.fsync)


class Raw:
    def __init__(self, raw: Any, disk: Disk):
        self._raw, self._disk = raw, disk

    def write(self, data: memoryview) -> int:
        self._disk.check()
        return self._raw.write(data[: self._disk.short])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


@pytest.fixture
def task(tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(job, "CHUNK", 16)
    monkeypatch.setattr(run, "SAVE_SECONDS", 0)
    lines = [json.dumps({"text": text}) if i % 7 else "{" for i, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return Task([tmp_path / "in.jsonl"], tmp_path / "o" / "out.csv.gz", rejects=tmp_path / "o" / "bad.jsonl")


def files(task: Task) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in task.output.parent.iterdir()}


@pytest.mark.parametrize("short", [1 << 30, 50])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_every_call(
    task: Task, scorer: Scorer, monkeypatch: pytest.MonkeyPatch, number: int, short: int
) -> None:
    disk = Disk(short=short)
    disk.use(monkeypatch)
    run.run(task, scorer)
    whole = files(task)
    assert set(whole) == {"out.csv.gz", "bad.jsonl"}
    shutil.rmtree(task.output.parent)
    total = disk.calls
    assert total > 20
    for fail_at in range(1, total + 1, 1 if short > 50 else 7):
        Disk(fail_at, number, short).use(monkeypatch)
        with pytest.raises(InputError, match=r"cannot write: (No space|I/O error)") as error:
            run.run(task, scorer)
        left = files(task)
        assert not set(left) & set(whole), f"call {fail_at}: a file with its final name"
        assert ("--resume" in str(error.value)) == bool(left)
        assert "\n" not in str(error.value)
        Disk(short=short).use(monkeypatch)
        run.run(replace(task, resume=True), scorer)
        assert files(task) == whole, f"call {fail_at}"
        shutil.rmtree(task.output.parent)


def test_a_write_that_takes_nothing(task: Task, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(short=0).use(monkeypatch)
    with pytest.raises(InputError, match="cannot write: nothing could be written"):
        run.run(task, scorer)
    assert files(task) == {}


def test_a_disk_that_comes_back_half_way(task: Task, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails over and over, a little later each time: what is done is never done again."""
    run.run(replace(task, output=task.output.with_name("whole.csv.gz")), scorer)
    whole = files(task)["whole.csv.gz"]
    shutil.rmtree(task.output.parent)
    for turn in range(100):
        Disk(14).use(monkeypatch)  # room for one chunk
        try:
            run.run(replace(task, resume=True), scorer)
            break
        except InputError:
            assert turn < 20, "no progress"
    assert turn > 2
    assert files(task)["out.csv.gz"] == whole
