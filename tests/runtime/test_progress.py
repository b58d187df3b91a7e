"""What a run says of itself while it runs, and what ``jirgee score`` finds to read."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from jirgee.cli import main
from jirgee.progress import Progress
from jirgee.summary import Summary


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"x" * 500)
    return paths


def test_a_bar_shows_rate_and_time_left(inputs: list[Path]) -> None:
    out = io.StringIO()
    shown = Progress("bar", inputs, out)
    shown.consumed(1, 250)
    shown.scored(4096)
    shown.end(Path("o.csv"), Summary(rows=4096, scored=4096, seconds=2))
    assert " 75%" in out.getvalue()
    assert "4,096 rows, " in out.getvalue()
    assert out.getvalue().splitlines()[-1].strip().startswith("o.csv: 4096 rows: 4096 scored, 0 rejected")
    assert "2048 rows/s" in out.getvalue()


def test_a_log_says_how_long_it_will_take(inputs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    out = io.StringIO()
    shown = Progress("log", inputs, out)
    shown.consumed(0, 0)
    for _ in range(5):
        clock += 25
        shown.consumed(0, 400)
        shown.scored(1000)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["rows"], line["seconds"]) for line in lines] == [(3000, 75.0)], "one line a minute"
    assert lines[0]["read_share"] == 0.4
    assert lines[0]["seconds_left"] == pytest.approx(75 * 600 / 400, abs=1)
    assert lines[0]["rows_per_second"] == 40


def test_nothing_is_shown(inputs: list[Path]) -> None:
    out = io.StringIO()
    shown = Progress("quiet", inputs, out)
    shown.scored(5)
    shown.end(Path("o.csv"), Summary())
    assert out.getvalue() == ""


# --- what is read ------------------------------------------------------------------------------------------------

ARCHIVE = 'window.YTD.tweets.part0 = [ {"tweet": {"id": "1", "full_text": "сайн уу"}},\n {"tweet": {"id": "2"}} ]'


@pytest.mark.parametrize(
    ("name", "content", "options", "scored", "rejected"),
    [
        ("tweets.js", ARCHIVE, [], ["сайн уу"], 1),
        ("v2.jsonl", '{"id": "1", "text": "нэг"}\n{"id": "2", "text": "хоёр"}\n', [], ["нэг", "хоёр"], 0),
        ("stream.jsonl", '{"data": {"id": "1", "text": "нэг"}, "matching_rules": []}\n', [], ["нэг"], 0),
        (
            "deep.jsonl",
            '{"a": {"b": "нэг"}}\n{"a.b": "хоёр"}\n{"a": "x"}\n',
            ["--text-column", "a.b"],
            ["нэг", "хоёр"],
            1,
        ),
        ("list.json", '[{"text": "нэг"}, {"text": "хоёр"}]', [], ["нэг", "хоёр"], 0),
    ],
)
def test_twitter_and_nested_fields(
    tiny_bundle: Path, tmp_path: Path, name: str, content: str, options: list[str], scored: list[str], rejected: int
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(content, encoding="utf-8")
    source = tmp_path / "in" if name != "list.json" else tmp_path / "in" / name
    out, bad = tmp_path / "out.jsonl", tmp_path / "bad.jsonl"
    args = ["score", tiny_bundle, source, "-o", out, "--rejects", bad, "--quiet", "--device", "cpu", *options]
    assert main([str(arg) for arg in args]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [text_of(row) for row in rows] == scored
    assert len(bad.read_text().splitlines()) == rejected


def text_of(row: dict[str, Any]) -> str:
    """The one text that is somewhere in a row."""
    for name in ("tweet", "data", "a"):
        if isinstance(row.get(name), dict):
            row = row[name]
    return next(row[name] for name in ("text", "full_text", "b", "a.b") if name in row)
