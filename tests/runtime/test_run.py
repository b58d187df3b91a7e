"""Runs that are ended and go on: the same bytes, and a refusal when something has changed."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jirgee import cache, job, run, sinks
from jirgee.columns import Extras
from jirgee.errors import InputError, Interrupted
from jirgee.journal import load
from jirgee.run import Task
from jirgee.scorer import Scorer
from jirgee.sinks import beside

ROWS = 300


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK", 16)
    monkeypatch.setattr(cache, "CACHED_TEXTS", 40)
    monkeypatch.setattr(run, "SAVE_SECONDS", 0)


@pytest.fixture
def source(tmp_path: Path, texts: list[str]) -> Path:
    """Rows with many repeats, near and far, and one bad row in ten."""
    path = tmp_path / "in.jsonl"
    lines = []
    for i in range(ROWS):
        text = texts[(i * i) % 53] if i % 2 else f"{texts[i % 60]} {i % 97}"
        lines.append(json.dumps({"id": i, "text": text}) if i % 10 else "{bad")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


class Stop(Exception):
    """What ends a run in these tests: nothing may be done about it, as with a kill."""


def start_and_stop(task: Task, scorer: Scorer, after: int, error: BaseException | None = None) -> None:
    """Begin ``task`` and end it when ``after`` chunks are written."""
    left = after

    def progress(rows: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise error or Stop

    with pytest.raises((Stop, Interrupted)):
        run.run(task, scorer, progress)


def same_texts_same_bytes(scorer: Scorer, task: Task, tmp_path: Path) -> tuple[bytes, bytes]:
    whole = replace(task, output=tmp_path / "whole" / task.output.name, resume=False)
    if task.rejects:
        whole = replace(whole, rejects=tmp_path / "whole" / "bad.jsonl")
    run.run(whole, scorer)
    return whole.output.read_bytes(), whole.rejects.read_bytes() if whole.rejects else b""


OUTPUTS = ["out.csv", "out.jsonl", "out.csv.gz", "out.jsonl.xz", "out.jsonl.zst", "out.parquet"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_it_goes_on_to_the_same_bytes(scorer: Scorer, source: Path, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if name.endswith("zst"):
        pytest.importorskip("zstandard")
    task = Task([source], tmp_path / "o" / name, rejects=tmp_path / "o" / "bad.jsonl", extras=Extras(True, 0.6))
    expected = same_texts_same_bytes(scorer, task, tmp_path)
    for after in (1, 2, 7, 12, 18):
        start_and_stop(task, scorer, after)
        assert not task.output.exists()
        stopped_again = replace(task, resume=True)
        start_and_stop(stopped_again, scorer, 1)
        summary = run.run(stopped_again, scorer)
        assert (task.output.read_bytes(), (tmp_path / "o" / "bad.jsonl").read_bytes()) == expected
        assert (summary.rows, summary.scored, summary.rejected) == (ROWS, ROWS * 9 // 10, ROWS // 10)
        assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["bad.jsonl", name]
        shutil.rmtree(tmp_path / "o")


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.parquet", "in.json", "several"])
def test_whatever_the_input_is(scorer: Scorer, tmp_path: Path, texts: list[str], name: str) -> None:
    rows = [{"id": str(i), "text": texts[i % 60] + "\nx" * (i % 4 == 0)} for i in range(ROWS)]
    inputs = [tmp_path / name]
    if name == "several":
        inputs = [tmp_path / f"{i}.jsonl" for i in range(9)]
        for i, path in enumerate(inputs):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows[i * 7 : i * 7 + 7]))
        whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows[63:]).encode() * 20)
        inputs.insert(5, tmp_path / "cut.jsonl.gz")
        inputs[5].write_bytes(whole[: len(whole) // 2])
        inputs.append(tmp_path / "empty.csv")
        inputs[-1].touch()
    elif name == "in.json":
        inputs[0].write_text(json.dumps(rows, indent=1))
    else:
        if name == "in.parquet":
            pytest.importorskip("pyarrow")
        from jirgee.rows import Sink

        with Sink(inputs[0]) as sink:
            for row in rows:
                sink.write(row)
    task = Task(inputs, tmp_path / "out.jsonl", rejects=tmp_path / "bad.jsonl")
    expected = same_texts_same_bytes(scorer, task, tmp_path)
    for after in (1, 3, 8):
        start_and_stop(task, scorer, after)
        run.run(replace(task, resume=True), scorer)
        assert (task.output.read_bytes(), (tmp_path / "bad.jsonl").read_bytes()) == expected
        task.output.unlink()
        (tmp_path / "bad.jsonl").unlink()
    assert len(expected[0].splitlines()) >= 60


def test_scores_are_those_of_a_cache_that_forgot_nothing_else(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    """A run with another memory would compute other batches: the log is what makes the bytes equal."""
    computed: list[list[str]] = []

    class Spy:
        bundle, device, token_budget, layout = scorer.bundle, scorer.device, scorer.token_budget, scorer.layout

        def score(self, texts: list[str]) -> Any:
            computed.append(list(texts))
            return scorer.score(texts)

    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
    run.run(task, Spy())  # type: ignore[arg-type]
    whole, computed = computed, []
    again = replace(task, overwrite=True)
    start_and_stop(again, Spy(), 9)  # type: ignore[arg-type]
    computed = []
    run.run(replace(again, resume=True), Spy())  # type: ignore[arg-type]
    assert computed == whole[9:]
    assert sum(map(len, whole)) < ROWS * 0.9, "nothing was remembered"


Change = Callable[[Task], Task]


def touch_input(task: Task) -> Task:
    content = bytearray(task.inputs[0].read_bytes())
    content[-5] ^= 1
    stat = task.inputs[0].stat()
    task.inputs[0].write_bytes(content)
    os.utime(task.inputs[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return task


def grow_input(task: Task) -> Task:
    with task.inputs[0].open("a") as stream:
        stream.write("\n{}\n")
    return task


CHANGES: dict[str, tuple[Change, str]] = {
    "content": (touch_input, r"the input .*in\.jsonl has changed"),
    "length": (grow_input, r"the input .*in\.jsonl has changed"),
    "more files": (lambda task: replace(task, inputs=[*task.inputs] * 2), "2 files where there were 1"),
    "column": (lambda task: replace(task, text_column="id"), r"option --text-column has changed \(text to id\)"),
    "flags": (lambda task: replace(task, extras=Extras(flags=True)), r"option --flags has changed \(unset to set\)"),
    "abstain": (lambda task: replace(task, extras=Extras(abstain_below=0.5)), r"--abstain-below .*\(unset to 0.5\)"),
    "no rejects": (lambda task: replace(task, rejects=None), "option --rejects has changed"),
    "format": (lambda task: replace(task, format="text"), "option --format has changed"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_it_refuses_when_something_has_changed(scorer: Scorer, source: Path, tmp_path: Path, what: str) -> None:
    change, message = CHANGES[what]
    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
    start_and_stop(task, scorer, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.glob(".*")}
    with pytest.raises(InputError, match=rf"out\.csv: cannot go on: .*{message}.*--overwrite"):
        run.run(replace(change(task), resume=True), scorer)
    assert {path.name: path.read_bytes() for path in tmp_path.glob(".*")} == before


def test_it_refuses_another_bundle(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
    start_and_stop(task, scorer, 3)

    class Other:
        bundle = replace(scorer.bundle, temperature=2.0)
        device, token_budget, layout = scorer.device, scorer.token_budget, scorer.layout

    with pytest.raises(InputError, match="the bundle has changed"):
        run.run(replace(task, resume=True), Other())  # type: ignore[arg-type]


def test_rejects_may_be_asked_for_later(scorer: Scorer, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"мөр {i}"}) for i in range(100)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, "{bad", *lines]))
    task = Task([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    with pytest.raises(InputError, match=r"in\.jsonl:101: not JSON.*--rejects.*what is done is kept.*--resume"):
        run.run(task, scorer)
    summary = run.run(replace(task, resume=True, rejects=tmp_path / "bad.jsonl", max_rejects=1), scorer)
    assert (summary.scored, summary.rejected) == (200, 1)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 200
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 1


def test_too_many_rejects(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl", max_rejects=20)
    with pytest.raises(InputError, match=r"in\.jsonl:201: .*reject number 21 and --max-rejects is 20.*--resume"):
        run.run(task, scorer)
    assert not task.output.exists()
    summary = run.run(replace(task, max_rejects=30, resume=True), scorer)
    assert summary.rejected == 30


def test_an_unfinished_run_is_not_thrown_away(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
    start_and_stop(task, scorer, 3)
    with pytest.raises(InputError, match=r"unfinished run of it is there \(48 rows read\); pass --resume"):
        run.run(task, scorer)
    assert run.run(replace(task, overwrite=True), scorer).rows == ROWS


def test_resume_without_anything_to_resume(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl", resume=True)
    assert not run.finished_before(task)
    assert run.run(task, scorer).rows == ROWS
    beside(task.output, "lock").touch()  # of a run that was killed in its last moment
    assert run.finished_before(task)
    assert not beside(task.output, "lock").exists()
    os.utime(task.output, (0, 0))
    assert not run.finished_before(task)
    with pytest.raises(InputError, match="exists already"):
        run.run(task, scorer)


def test_a_run_ended_between_its_last_row_and_its_last_name(
    scorer: Scorer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task([source], tmp_path / "o" / "out.csv", rejects=tmp_path / "o" / "bad.jsonl")
    expected = same_texts_same_bytes(scorer, task, tmp_path)
    really = sinks.publish
    for allowed in (0, 1, 2):
        calls = 0

        def publish(staged: Path, final: Path) -> None:
            nonlocal calls
            calls += 1
            if calls > allowed:  # noqa: B023
                raise Stop
            really(staged, final)

        monkeypatch.setattr(run, "publish", publish)
        if allowed < 2:
            with pytest.raises(Stop):
                run.run(task, scorer)
        else:
            run.run(task, scorer)
        monkeypatch.setattr(run, "publish", really)
        if allowed < 2:
            summary = run.run(replace(task, resume=True), scorer)
            assert summary.rows == ROWS
        assert (task.output.read_bytes(), (tmp_path / "o" / "bad.jsonl").read_bytes()) == expected
        assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["bad.jsonl", "out.csv"]
        shutil.rmtree(tmp_path / "o")


def test_a_torn_journal_and_longer_files(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    """After a power cut the last line may be half there, and the files longer than it says."""
    task = Task([source], tmp_path / "o" / "out.csv", rejects=tmp_path / "o" / "bad.jsonl")
    expected = same_texts_same_bytes(scorer, task, tmp_path)
    for cut in (1, 30, 200):
        start_and_stop(task, scorer, 5)
        journal = beside(task.output, "journal")
        journal.write_bytes(journal.read_bytes()[:-cut])
        for name in ("partial", "scores"):
            with beside(task.output, name).open("ab") as stream:
                stream.write(b"\0garbage")
        run.run(replace(task, resume=True), scorer)
        assert task.output.read_bytes() == expected[0]
        shutil.rmtree(tmp_path / "o")
    start_and_stop(task, scorer, 5)
    beside(task.output, "partial").write_bytes(b"short")
    with pytest.raises(InputError, match=r"shorter than the .* bytes that the journal says; start over"):
        run.run(replace(task, resume=True), scorer)


def test_one_writer_at_a_time(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
    lock = beside(task.output, "lock")
    code = (
        "import sys, pathlib; from jirgee.lock import Lock\n"
        "with Lock(pathlib.Path(sys.argv[1]), pathlib.Path('x')): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=rf"out\.csv: another jirgee \(process {other.pid}\) is writing it"):
            run.run(task, scorer)
        other.kill()
    assert run.run(task, scorer).rows == ROWS, "a lock must not outlive its process"
    assert not lock.exists()


def test_an_interrupt_says_how_to_go_on(scorer: Scorer, source: Path, tmp_path: Path) -> None:
    task = Task([source], tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
    with pytest.raises(Interrupted) as stop:
        run.run(task, scorer, lambda rows: (_ for _ in ()).throw(KeyboardInterrupt))
    assert (stop.value.flag, stop.value.kept) == ("--resume", beside(task.output, "journal"))
    assert run.run(replace(task, resume=True), scorer).rows == ROWS


def test_marks_now_and_then_are_enough(
    scorer: Scorer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks behind the last mark are done again, to the same bytes."""
    task = Task([source], tmp_path / "o" / "out.csv.gz", rejects=tmp_path / "o" / "bad.jsonl")
    expected = same_texts_same_bytes(scorer, task, tmp_path)
    monkeypatch.setattr(run, "SAVE_SECONDS", 1000)
    start_and_stop(task, scorer, 9)
    state = load(beside(task.output, "journal"))
    assert state
    assert state.mark
    assert state.mark.counts["rows"] == 16, "the first chunk is always marked"
    assert beside(task.output, "partial").stat().st_size > state.mark.output
    run.run(replace(task, resume=True), scorer)
    assert task.output.read_bytes() == expected[0]
