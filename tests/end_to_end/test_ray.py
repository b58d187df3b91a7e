"""``--engine ray``: the rows of ``--engine local``, also when a process of Ray is killed midway."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install '.[ray]'"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes of Ray by Linux's /proc"),
]
RAY = ("--engine", "ray", "--workers", "2", "--device", "cpu")


def start(*args: object, mark: str = "") -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JIRGEE_TEST_MARK": mark}
    command = [sys.executable, "-m", "jirgee.cli", "score", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        _, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        raise
    assert process.returncode == code, err
    return "".join(line for line in err.splitlines(True) if ".cc:" not in line)  # Ray's own


def processes(mark: str, name: str) -> Iterator[int]:
    """Of the run that was started with ``mark``: those whose title holds ``name``."""
    for folder in Path("/proc").iterdir():
        try:
            if name in (folder / "cmdline").read_text() and mark in (folder / "environ").read_text():
                yield int(folder.name)
        except (OSError, ValueError):
            continue


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return sorted(csv.DictReader(stream), key=lambda row: int(row["id"]))


def assert_same(came: Path, local: Path) -> None:
    """Equal rows; probabilities within 1e-5, for another worker may have computed a text beside others.

    Alone, one of the sample texts differs by 9.8e-6 from itself in company (32-bit sums in another order); both sides
    are written with six digits, so they are compared as whole millionths.
    """
    got, wanted = rows(came), rows(local)
    assert [row["id"] for row in got] == [row["id"] for row in wanted]
    for a, b in zip(got, wanted, strict=True):
        for name in b:
            if name == "score" or name.startswith("p_"):
                assert abs(round(float(a[name]) * 1e6) - round(float(b[name]) * 1e6)) <= 10, (name, a, b)
            else:
                assert a[name] == b[name], (a, b)


def test_the_rows_of_local_from_several_formats(tiny_bundle: Path, samples: Path, tmp_path: Path) -> None:
    """A table and spoilt JSON lines beside it: rows and rejects in the order of the inputs."""
    spoilt = tmp_path / "spoilt.jsonl"
    lines = [json.dumps({"id": str(10**8 + i), "text": f"мөр {i}"} | {"user": "", "created_at": ""}) for i in range(50)]
    lines[7], lines[30] = "{spoilt", json.dumps({"id": "1", "text": 5})
    spoilt.write_text("\n".join(lines), encoding="utf-8")
    inputs = [samples / "tweets.csv", spoilt]
    for folder, options in (("local", ("--device", "cpu")), ("ray", RAY)):
        out = tmp_path / folder
        err = finish(start(tiny_bundle, *inputs, "-o", out / "out.csv", "--rejects", out / "bad.jsonl", *options))
        assert "2050 rows: 2048 scored, 2 rejected" in err
        assert len(err.splitlines()) == 1, err
        assert sorted(path.name for path in out.iterdir()) == ["bad.jsonl", "out.csv"]
    with (tmp_path / "ray" / "out.csv").open(encoding="utf-8", newline="") as stream:
        came = [row["id"] for row in csv.DictReader(stream)]
    assert came == [row["id"] for row in rows(tmp_path / "local" / "out.csv")]
    assert_same(tmp_path / "ray" / "out.csv", tmp_path / "local" / "out.csv")
    assert (tmp_path / "ray" / "bad.jsonl").read_text() == (tmp_path / "local" / "bad.jsonl").read_text()


@pytest.mark.parametrize("name", ["MapBatches(Worker)", "MapBatches(read)"])
def test_a_killed_process_loses_and_doubles_nothing(
    tiny_bundle: Path, samples: Path, tmp_path: Path, name: str
) -> None:
    with (samples / "tweets.csv").open(encoding="utf-8", newline="") as stream:
        tweets = list(csv.DictReader(stream))
    source = tmp_path / "many.csv"
    with source.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(tweets[0]))
        writer.writeheader()
        for turn in range(40):  # 80,000 rows: 20 chunks
            for i, row in enumerate(tweets):
                writer.writerow(row | {"id": turn * len(tweets) + i, "text": f"{turn} {row['text']}"})
    finish(start(tiny_bundle, source, "-o", tmp_path / "local.csv", "--device", "cpu"))
    out, mark = tmp_path / "ray.csv", uuid.uuid4().hex
    process = start(tiny_bundle, source, "-o", out, *RAY, mark=mark)
    partial = tmp_path / ".ray.csv.partial"
    patience = time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size) and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.005)
    victims = list(processes(mark, name))
    for victim in victims[:1]:
        os.kill(victim, signal.SIGKILL)
    midway = not out.exists()
    err = finish(process)
    assert victims, f"no {name} was found to kill"
    assert midway
    assert "80000 rows: 80000 scored, 0 rejected" in err
    assert_same(out, tmp_path / "local.csv")


def test_bad_input_and_options_are_told_as_ever(tiny_bundle: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "нэг"}\n{spoilt\n', encoding="utf-8")
    err = finish(start(tiny_bundle, source, "-o", out, *RAY), code=1)
    assert err.startswith(f"jirgee: {source}:2: not JSON"), err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    err = finish(start(tiny_bundle, source, "-o", out, *RAY, "--resume"), code=2)
    assert "--resume needs --engine local" in err
