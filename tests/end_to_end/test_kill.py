"""``jirgee score`` as people run it: killed at random moments, interrupted, piped into ``head``, on a huge file.

More kills of runs over the real dump: JIRGEE_KILLS=200 pytest -s tests/end_to_end/test_kill.py -k dump
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jirgee.rows import Row, read_rows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
KILLS = 25
# The command with chunks so small that a kill falls anywhere between many of them.
SMALL = (
    "import sys; from jirgee import job, run; job.CHUNK = 128; run.SAVE_SECONDS = 0;"
    "from jirgee.cli import main; sys.exit(main(sys.argv[1:]))"
)


def start(*args: object, code: str = SMALL) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """The sample tweets three times in other orders, some rows spoilt."""
    rows = [item.record for item in read_rows(samples / "tweets.csv") if isinstance(item, Row)]
    rng = random.Random(1)
    path = tmp_path_factory.mktemp("source") / "in.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        for turn in range(3):
            for row in rng.sample(rows, len(rows)):
                stream.write(json.dumps(row | {"turn": turn}) + "\n" if rng.random() > 0.01 else "{spoilt\n")
    return path


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("samples", ["out.csv.gz"]),
        pytest.param("dump", ["out.jsonl", "out.csv.gz", "out.parquet"], marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path, data: str, names: list[str]
) -> None:
    """Every run is killed again and again until it is finished, and then compared with one that nobody killed."""
    if data == "dump":
        source = request.getfixturevalue("shared") / "data" / "tweets" / "dump.jsonl.gz"
        kills_wanted = int(os.environ.get("JIRGEE_KILLS", "6"))
    else:
        source, kills_wanted = request.getfixturevalue("source"), KILLS

    def command(folder: str, name: str) -> list[object]:
        out = tmp_path / folder
        return ["score", tiny_bundle, source, "-o", out / name, "--rejects", out / "bad.jsonl", "--flags",
                "--device", "cpu", "--threads", "1"]  # fmt: skip

    def content(folder: str, name: str) -> list[bytes]:
        return [(tmp_path / folder / file).read_bytes() for file in (name, "bad.jsonl")]

    whole: dict[str, list[bytes]] = {}
    rng = random.Random(int(os.environ.get("JIRGEE_SEED", "7")))
    kills = finished = midway = turn = 0
    while kills < kills_wanted:
        folder, name = f"run{turn}", names[turn % len(names)]
        if name not in whole:
            finish(start(*command(f"whole-{name}", name)))
            whole[name] = content(f"whole-{name}", name)
        final, journal = tmp_path / folder / name, tmp_path / folder / f".{name}.journal"
        while not final.exists() and kills < kills_wanted:
            process = start(*command(folder, name), "--resume")
            before = journal.stat().st_size if journal.exists() else 0
            patience = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < patience:  # until it writes
                if journal.exists() and journal.stat().st_size > before:
                    break
                time.sleep(0.002)
            time.sleep(rng.random() ** 2 * 0.8)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
                midway += journal.exists()
            process.communicate()
        assert "rows:" in (err := finish(start(*command(folder, name), "--resume"))) or "finished already" in err
        assert content(folder, name) == whole[name], f"seed, turn {turn}"
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == sorted(["bad.jsonl", name])
        shutil.rmtree(tmp_path / folder)
        finished += 1
        turn += 1
    print(f"{kills} kills, {midway} of them midway, over {finished} runs: the bytes of uninterrupted ones")
    assert finished
    assert midway > kills // 2, "the kills came too early or too late to prove anything"


def test_ctrl_c_prints_the_command_that_goes_on(samples: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [item.record for item in read_rows(samples / "tweets.csv") if isinstance(item, Row)]
    source = tmp_path / "long.jsonl"  # all texts different: seconds of work
    with source.open("w", encoding="utf-8") as stream:
        for turn in range(8):
            stream.writelines(json.dumps(row | {"text": f"{row['text']} {turn}"}) + "\n" for row in rows)
    args = ["score", tiny_bundle, source, "-o", tmp_path / "my out.csv", "--rejects", tmp_path / "bad.jsonl"]
    process = start(*args)
    while process.poll() is None and not (tmp_path / ".my out.csv.scores").exists():
        time.sleep(0.01)
    time.sleep(0.3)  # the file is there before the first chunk is
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1].partition("To go on: ")[2]
    assert shlex.split(line) == ["jirgee", *map(str, args), "--resume"]
    assert "rows: " in finish(start(*shlex.split(line)[1:]))
    assert (tmp_path / "my out.csv").exists()


def test_head_closes_the_pipe(tiny_bundle: Path, samples: Path) -> None:
    jirgee = f"{shlex.quote(sys.executable)} -m jirgee.cli score {shlex.quote(str(tiny_bundle))} - --device cpu"
    script = f"cat {shlex.quote(str(samples / 'tweets.csv'))} | ({jirgee}; echo $? >&2) | head -5"
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert len(result.stdout.splitlines()) == 5
    assert all("label" in json.loads(line) for line in result.stdout.splitlines())
    assert result.stderr.strip() == "0"


def test_a_log_for_machines(source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    code = SMALL.replace("import job, run;", "import job, run, progress; progress.EVERY = 0.05;")
    out = tmp_path / "out.jsonl"
    args = ["score", tiny_bundle, source, "-o", out, "--rejects", tmp_path / "bad.jsonl", "--log-json"]
    *lines, last = [json.loads(line) for line in finish(start(*args, code=code)).splitlines()]
    assert lines
    assert all(line["event"] == "progress" and 0 < line["read_share"] <= 1 for line in lines)
    assert [line["rows"] for line in lines] == sorted(line["rows"] for line in lines)
    assert last["event"] == "done"
    assert last["rows"] == last["scored"] + last["rejected"] == 6000
    assert last["repeats"] >= 3500
    assert 0 <= last["padding"] < 0.5
    assert last["peak_rss_bytes"] > 1 << 20
    assert {"tokens", "truncated", "seconds", "read_seconds", "score_seconds", "write_seconds"} <= set(last)


@pytest.mark.slow
def test_ten_times_the_rows_in_the_same_memory(shared: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    dump = shared / "data" / "tweets" / "dump.jsonl.gz"
    (tmp_path / "ten.jsonl.gz").write_bytes(dump.read_bytes() * 10)
    plain = "import sys; from jirgee.cli import main; sys.exit(main(sys.argv[1:]))"
    figures = []
    for path in (dump, tmp_path / "ten.jsonl.gz"):
        out = tmp_path / f"{path.name}.out.jsonl"
        args = ["score", tiny_bundle, path, "-o", out, "--threads", "1", "--device", "cpu", "--log-json"]
        figures.append(json.loads(finish(start(*args, code=plain)).splitlines()[-1]))
    one, ten = figures
    assert (one["scored"], ten["scored"]) == (24_427, 244_270)
    distinct = len({row.record["text"] for row in read_rows(dump) if isinstance(row, Row)})
    assert one["scored"] - one["repeats"] == ten["scored"] - ten["repeats"] == distinct
    assert ten["peak_rss_bytes"] <= one["peak_rss_bytes"] * 1.1
    with gzip.open(dump, "rt", encoding="utf-8") as read, (tmp_path / f"{dump.name}.out.jsonl").open() as scored:
        for came, went in zip(read, scored, strict=True):
            assert json.loads(came).items() <= json.loads(went).items()
