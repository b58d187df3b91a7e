"""Writing files: what is written reads back the same, and a file appears whole or not at all."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from jirgee.errors import InputError
from jirgee.rows import Reject, Row, Sink, json_line, read_rows

LETTERS = [*"абвгдеёөүй abc,;\"'\n\r\\{}[]", "😀", "\u2028", "\ufeff", '"', '""', "\r\n", " "]


def random_text(rng: random.Random, without: str = "") -> str:
    text = "".join(rng.choices(LETTERS, k=rng.randrange(12)))
    return "".join(letter for letter in text if letter not in without)


def written(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with Sink(path) as sink:
        for row in rows:
            sink.write(row)
    items = list(read_rows(path))
    assert not [item for item in items if isinstance(item, Reject)]
    return [item.record for item in items if isinstance(item, Row)]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.xz", "a.jsonl", "a.jsonl.gz", "a.ndjson"])
@pytest.mark.parametrize("seed", range(8))
def test_random_rows_survive(tmp_path: Path, name: str, seed: int) -> None:
    rng = random.Random(seed)
    without = "\t\n\r" if ".tsv" in name else ""
    # The last column is never blank: a table's row of one blank cell would be a blank line.
    rows = [{"a": random_text(rng, without), "ү, б": random_text(rng, without), "c": "."} for _ in range(200)]
    assert written(tmp_path / name, rows) == rows


def test_csv_reads_the_same_in_pythons_csv(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [{"a": random_text(rng), "b": random_text(rng)} for _ in range(500)]
    with Sink(tmp_path / "a.csv") as sink:
        for row in rows:
            sink.write(row)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.DictReader(stream)) == rows


def test_jsonl_keeps_types_and_letters(tmp_path: Path) -> None:
    rows = [{"text": "сайн", "n": 1, "x": None, "f": 0.5, "o": {"a": [True]}}, {"other": "row"}]
    assert written(tmp_path / "a.jsonl", rows) == rows
    assert "сайн" in (tmp_path / "a.jsonl").read_text(encoding="utf-8")


def test_cells_that_are_not_text(tmp_path: Path) -> None:
    rows = [{"a": None, "b": 1, "c": 0.25, "d": {"é": [1]}, "e": True}]
    assert written(tmp_path / "a.csv", rows) == [{"a": "", "b": "1", "c": "0.25", "d": '{"é": [1]}', "e": "true"}]


def test_a_lone_surrogate_is_escaped_in_json() -> None:
    line = json_line({"text": "a\ud83d", "b": "ү"})
    assert line.isascii()
    assert json.loads(line) == {"text": "a\ud83d", "b": "ү"}
    assert "ү" in json_line({"b": "ү"})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_every_output_is_utf8(tmp_path: Path, name: str) -> None:
    """A lone surrogate, which JSON can carry in, must not make the file unreadable for everybody else."""
    with Sink(tmp_path / name) as sink:
        sink.write({"text": "a\ud83dб", "n": "1"})
    (tmp_path / name).read_bytes().decode("utf-8")
    (item,) = read_rows(tmp_path / name)
    assert isinstance(item, Row)
    assert [ord(letter) for letter in item.record["text"]] == [97, 0xD83D if name == "a.jsonl" else 0xFFFD, 0x431]


def write_and_fail(path: Path, error: BaseException) -> None:
    with Sink(path) as sink:
        sink.write({"text": "a"})
        raise error


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.jsonl.xz"])
def test_an_exception_leaves_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(tmp_path / name, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz"])
def test_an_exception_keeps_the_old_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_and_fail(tmp_path / name, ZeroDivisionError())
    assert (tmp_path / name).read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_appears_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Sink(path) as sink:
        for i in range(10_000):
            sink.write({"text": f"row {i}"})
        assert not path.exists()
    assert len(list(read_rows(path))) == 10_000
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_disk_that_fails_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jirgee.appendfile.fsync", full)
    with pytest.raises(InputError, match=r"a\.csv: cannot write: No space left"), Sink(tmp_path / "a.csv") as sink:
        sink.write({"text": "a"})
    assert list(tmp_path.iterdir()) == []


def test_columns_without_rows(tmp_path: Path) -> None:
    with Sink(tmp_path / "a.csv", columns=["text", "label"]):
        pass
    assert (tmp_path / "a.csv").read_text() == "text,label\n"
    with Sink(tmp_path / "b.jsonl"):
        pass
    assert (tmp_path / "b.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_column_that_the_first_row_had_not(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="'extra'"):
        written(tmp_path / name, [{"text": "a"}, {"text": "b", "extra": "c"}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\rb"])
def test_tsv_has_no_form_for_some_texts(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="write CSV or JSONL"), Sink(tmp_path / "a.tsv") as sink:
        sink.write({"text": text})
    with pytest.raises(InputError, match="write CSV or JSONL"), Sink(tmp_path / "b.tsv") as sink:
        sink.write({text: "in the header"})


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"out\.csv"):
        Sink(tmp_path / "file" / "out.csv")
    with pytest.raises(InputError, match="text cannot be written; choose csv, tsv, jsonl or parquet"):
        Sink(tmp_path / "out.txt")
    with pytest.raises(InputError, match="its name does not tell its format"):
        Sink(tmp_path / "out.xlsx")


def test_directories_are_made(tmp_path: Path) -> None:
    with Sink(tmp_path / "new" / "dir" / "a.csv") as sink:
        sink.write({"text": "a"})
    assert (tmp_path / "new" / "dir" / "a.csv").is_file()
