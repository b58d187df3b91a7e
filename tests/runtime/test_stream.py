"""Texts through a pipe: each answered as it comes, and no noise when somebody hangs up."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jirgee.errors import InputError
from jirgee.scorer import Scorer
from jirgee.stream import score_stream

Start = Callable[..., "subprocess.Popen[bytes]"]


def answers(scorer: Scorer, source: bytes) -> list[dict]:
    out = io.StringIO()
    count = score_stream(scorer, io.BytesIO(source), out)
    lines = out.getvalue().split("\n")[:-1]
    assert count == len(lines)
    return [json.loads(line) for line in lines]


class Trickle:
    """A stream that gives a few bytes at a time, and fails at its end if told to."""

    def __init__(self, content: bytes, size: int, error: OSError | None = None):
        self._parts = [content[i : i + size] for i in range(0, len(content), size)]
        self._error = error

    def read(self, size: int) -> bytes:
        if not self._parts and self._error:
            raise self._error
        return self._parts.pop(0) if self._parts else b""


@pytest.fixture
def start(tiny_bundle: Path) -> Iterator[Start]:
    """Start ``jirgee score BUNDLE -`` with pipes on all three streams."""
    started: list[subprocess.Popen[bytes]] = []

    def run(**environment: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "jirgee.cli", "score", str(tiny_bundle), "-", "--device", "cpu"]
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | environment))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[bytes], text: str) -> dict:
    assert process.stdin
    assert process.stdout
    process.stdin.write(text.encode() + b"\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def test_every_line_is_answered_in_order(scorer: Scorer, texts: list[str]) -> None:
    rows = answers(scorer, "".join(f"{text}\n" for text in texts * 50).encode())
    assert [row["text"] for row in rows] == texts * 50
    scores = scorer.score(texts * 50)
    assert [row["label"] for row in rows] == scores.labels
    assert set(rows[0]) == {"text", "label", "score", "p_comedian", "p_commentator", "probs"}
    assert set(rows[0]["probs"]) == {"comedian", "commentator"}


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\r\nb\n\nc", ["a", "b", "", "c"]),
        (b"\xff\xfea\n", ["\ufffd\ufffda"]),
        (b"a\0b\n", ["a\0b"]),
        ("a\u2028b\n😀\n".encode(), ["a\u2028b", "😀"]),
    ],
)
def test_odd_lines(scorer: Scorer, source: bytes, texts: list[str]) -> None:
    assert [row["text"] for row in answers(scorer, source)] == texts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_in_pieces(scorer: Scorer, size: int) -> None:
    texts = ["сайн", "", "байна уу\tта", "😀", "\u2028", "end"]
    out = io.StringIO()
    assert score_stream(scorer, Trickle("\n".join(texts).encode(), size), out) == len(texts)
    assert [json.loads(line)["text"] for line in out.getvalue().split("\n")[:-1]] == texts


def test_a_source_that_fails(scorer: Scorer) -> None:
    out = io.StringIO()
    with pytest.raises(InputError, match="standard input: Input/output error"):
        score_stream(scorer, Trickle(b"a\nb\n", 4, OSError(5, "Input/output error")), out)
    assert out.getvalue().count("\n") == 2


def test_a_live_stream_is_answered_line_by_line(start: Start) -> None:
    process = start()
    for text in ("сайн байна уу", "муу байна", ""):
        assert ask(process, text)["text"] == text  # before the next is sent
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_the_reader_hangs_up(start: Start) -> None:
    process = start()
    ask(process, "сайн")
    assert process.stdin
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    process.stdin.write("муу\n".encode())
    process.stdin.flush()
    process.wait(timeout=60)  # although standard input stays open
    assert process.stderr
    assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child")
def test_an_interrupt_is_no_crash(start: Start) -> None:
    process = start()
    ask(process, "сайн")
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)  # although standard input stays open
    assert process.stderr
    text = process.stderr.read().decode()
    assert process.returncode == 130, text
    assert text.strip().count("\n") == 0
    assert "interrupted" in text
    assert "Traceback" not in text
    assert "Fatal" not in text


def test_the_output_is_utf8_whatever_the_terminal_speaks(start: Start) -> None:
    process = start(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ask(process, "сайн уу 😀")["text"] == "сайн уу 😀"
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("format", "source"),
    [
        ("jsonl", '{"id": 1, "text": "сайн"}\n{"id": 2}\n{bad\n{"id": 3, "text": "муу"}\n'),
        ("csv", 'id,text\n1,сайн\n2\n"3\n3,"муу"\n'),
        ("tsv", "id\ttext\n1\tсайн\n2\n\n3\tмуу"),
    ],
)
def test_rows_with_columns(scorer: Scorer, format: str, source: str) -> None:
    out, warned = io.StringIO(), io.StringIO()
    assert score_stream(scorer, io.BytesIO(source.encode()), out, format, warn=warned) == 2
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(int(row["id"]), row["text"]) for row in rows] == [(1, "сайн"), (3, "муу")]
    assert all("label" in row for row in rows)
    lines = warned.getvalue().splitlines()
    assert lines
    assert all(line.startswith("jirgee: standard input:") and line.endswith("; left out") for line in lines)


def test_what_a_stream_cannot_be(scorer: Scorer) -> None:
    with pytest.raises(InputError, match="parquet cannot be read from a stream"):
        score_stream(scorer, io.BytesIO(b""), io.StringIO(), "parquet")
    with pytest.raises(InputError, match="header names a column twice"):
        score_stream(scorer, io.BytesIO(b"a,a\n"), io.StringIO(), "csv")


def test_a_line_without_end_takes_no_memory(scorer: Scorer) -> None:
    import resource

    class Endless:
        left = 400

        def read(self, size: int) -> bytes:
            self.left -= 1
            return b"x" * 1_000_000 if self.left >= 0 else b"\nsecond\n" if self.left == -1 else b""

    out = io.StringIO()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert score_stream(scorer, Endless(), out) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000
    assert json.loads(out.getvalue().splitlines()[1])["text"] == "second"
