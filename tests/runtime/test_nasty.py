"""Files as the world makes them: every good row is scored, every bad one is in the rejects, with its place."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from jirgee.columns import Extras, note
from jirgee.errors import InputError
from jirgee.rows import FORMATS, Reject, Row, read_items, read_rows
from jirgee.run import Task, run
from jirgee.scorer import Scorer

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402


def nasty_json_lines() -> list[tuple[bytes, bool]]:
    """Lines and whether they are rows."""
    good = [
        '{"text": "сайн"}',
        '{"text": "half \\ud83d"}',
        '{"text": ""}',
        '{"text": "https://t.co/x"}',
        '{"text": "tab\\tline\\nquote\\"", "extra": [1, {"a": null}]}',
        '{"full_text": "from the archive"}',
        '{"data": {"text": "from the API"}}',
        '{"text": "' + "урт " * 20_000 + '"}',
    ]
    bad: list[bytes] = [
        b'{"text": "\xff\xfe"}',
        b'{"text": "nul \0"}',
        b'{"text": "open}',
        b'{"text": 5}',
        b'{"text": null}',
        b'{"other": "x"}',
        b"[1, 2]",
        b"not json",
        b"[" * 100_000,
        b'{"text": "' + b"x" * (2 << 20) + b'"}',
        b'{"text": NaN, "text": 1e999}',
    ]
    lines = [(line.encode(), True) for line in good] * 30 + [(line, False) for line in bad] * 5
    random.Random(4).shuffle(lines)
    return lines


@pytest.mark.parametrize(
    ("name", "out"), [("nasty.jsonl", "out.jsonl"), ("nasty.jsonl.gz", "out.jsonl"), ("nasty.jsonl", "out.csv")]
)
def test_good_rows_are_scored_and_bad_ones_named(scorer: Scorer, tmp_path: Path, name: str, out: str) -> None:
    lines = nasty_json_lines()
    content = b"\xef\xbb\xbf" + b"".join(line + (b"\r\n" if i % 2 else b"\n\n") for i, (line, _) in enumerate(lines))
    whole = content + b'{"text": "the last one, cut sho'
    path = tmp_path / name
    # A random tail keeps what comes before it out of the last block of the compressed file, which is cut.
    rng = random.Random(1)
    tail = json.dumps({"other": [rng.random() for _ in range(20_000)]}).encode()
    path.write_bytes(gzip.compress(whole[:-31] + tail)[:-5000] if name.endswith("gz") else whole)
    if out == "out.csv":  # a table has the columns of its first row
        table = [line.startswith(b'{"text": "') and b"extra" not in line for line, _ in lines]
        lines = [line for line, fits in zip(lines, table, strict=True) if fits or not line[1]]
        path.write_bytes(b"\n".join(line for line, _ in lines))
    task = Task([path], tmp_path / out, rejects=tmp_path / "bad.jsonl", extras=Extras(flags=True))
    summary = run(task, scorer)
    cut = out == "out.jsonl"
    good = [json.loads(line) for line, is_row in lines if is_row]
    assert summary.scored == len(good)
    assert summary.rejected == len(lines) - len(good) + cut
    scored = [row.record for row in read_rows(tmp_path / out) if isinstance(row, Row)]
    if cut:
        assert all(came.items() <= went.items() for came, went in zip(good, scored, strict=True))
        notes = {row["note"] for row in scored}
        assert notes == {"", "empty", "link-only"}
        assert any(row["truncated"] for row in scored)
        data = content + tail if name.endswith("gz") else whole
        rejects = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
        for row in rejects:
            start = row["offset"]
            assert data[:start].count(b"\n") == row["line"] - 1
            assert data[start:].startswith(row["raw"].encode("utf-8", "replace")[:8])
            assert row["reason"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n\u2003", "empty"),
        ("https://t.co/abc", "link-only"),
        (" http://a.mn  www.b.mn/x?y", "link-only"),
        ("HTTPS://T.CO/A", "link-only"),
        ("үз https://t.co/abc", ""),
        ("t.comedy", ""),
        ("😀", ""),
    ],
)
def test_notes(text: str, expected: str) -> None:
    assert note(text) == expected


def test_abstention(scorer: Scorer, tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "in.txt").write_text("\n".join(texts))
    run(Task([tmp_path / "in.txt"], tmp_path / "out.jsonl", extras=Extras(abstain_below=0.8)), scorer)
    run(Task([tmp_path / "in.txt"], tmp_path / "out.csv", extras=Extras(abstain_below=0.8)), scorer)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["label"] is None for row in rows} == {True, False}
    assert all((row["label"] is None) == (row["score"] < 0.8) for row in rows)
    cells = [row.record["label"] for row in read_rows(tmp_path / "out.csv") if isinstance(row, Row)]
    assert cells == [row["label"] or "" for row in rows]


PIECES = st.sampled_from(
    [
        *(b'"', b'""', b",", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]"),
        *(b'{"text": "a"}', b"text,id", b"text\tid", b"a", "ү😀".encode(), b"\xf0\x9f", b" ", b"\\"),
        b"window.YTD.tweets.part0 = ",
    ]
)
CONTENT = st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=60).map(b"".join)


def items_of(path: Path, name: str) -> list[Any] | str:
    try:
        return list(read_items(path, name))
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "parquet"])
@settings(max_examples=150, deadline=None)
@given(content=CONTENT, cut=st.integers(0, 40))
def test_no_bytes_crash_a_reader(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    path.write_bytes(content)
    items = items_of(path, name)
    if not isinstance(items, str):
        places = [(item.line, item.offset) for item in items]
        assert places == sorted(set(places))
        assert all(isinstance(item, (Row, Reject)) for item in items)
    for suffix in (".gz",):
        packed = gzip.compress(content, mtime=0)
        path.with_suffix(suffix).write_bytes(packed[: max(0, len(packed) - cut)])
        other = items_of(path.with_suffix(suffix), name)
        if not cut and not isinstance(items, str):
            assert other == items


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_bytes_crash_the_parquet_reader(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path_factory.getbasetemp() / "fuzz.parquet"
    pq.write_table(pa.table({"text": ["a", "b"] * 10, "n": range(20)}), path)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    items_of(path, "parquet")
