"""Formats beyond tables and lines: zstd, Parquet, JSON arrays, Twitter archives; going on in the middle of each."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import resource
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from jirgee import records
from jirgee.errors import InputError
from jirgee.inputs import expand
from jirgee.rows import Place, Reject, Row, Sink, read_items, read_rows

zstandard = pytest.importorskip("zstandard")


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def records_of(path: Path) -> list[dict[str, Any]]:
    items = list(read_rows(path))
    assert not [item for item in items if isinstance(item, Reject)]
    return [item.record for item in items if isinstance(item, Row)]


# --- zstd --------------------------------------------------------------------------------------------------------


def test_zstd_reads_and_writes(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"мөр {i}" * 20} for i in range(5000)]
    with Sink(tmp_path / "a.jsonl.zst") as sink:
        for row in rows[:10]:
            sink.write(row)
        sink.commit()  # a second frame
        for row in rows[10:]:
            sink.write(row)
    assert records_of(tmp_path / "a.jsonl.zst") == rows


@pytest.mark.parametrize("checksum", [True, False])
def test_zstd_that_is_cut_short_is_damaged(tmp_path: Path, checksum: bool) -> None:
    data = b"".join(b"line %d %d\n" % (i, i * 7919 % 10007) for i in range(100_000))
    out = io.BytesIO()
    with zstandard.ZstdCompressor(write_checksum=checksum).stream_writer(out, closefd=False) as writer:
        writer.write(data)
    whole = out.getvalue()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(whole + zstd(b"more\n") + b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc")
    assert len(list(read_rows(path))) == 100_001
    for end in (5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="cut short or damaged"):
            list(read_rows(path))
    path.write_bytes(b"no compression at all\n")
    with pytest.raises(InputError, match="cut short or damaged"):
        list(read_rows(path))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstd)])
def test_rows_before_the_damage_and_one_reject(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    data = "".join(f"текст номер {i} {i * 7919 % 10007}\n" for i in range(50_000)).encode()
    path = tmp_path / f"a.txt{suffix}"
    whole = pack(data)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    *rows, last = read_items(path)
    assert isinstance(last, Reject)
    assert last.damaged
    assert len(rows) > 1000
    assert all(
        isinstance(row, Row) and row.record["text"].startswith(f"текст номер {i} ") for i, row in enumerate(rows)
    )
    assert data[last.offset :].startswith(last.raw)
    assert last.line == len(rows) + 1


# --- JSON arrays -------------------------------------------------------------------------------------------------

TWEETS = [
    {"tweet": {"id": "1", "full_text": 'сайн "уу" [\\] {', "entities": {"urls": [{"a": [1, 2]}]}}},
    {"tweet": {"id": "2", "full_text": "муу\n}],"}},
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("head", ["", "window.YTD.tweets.part0 = ", "window.YTD.tweet.part12 =\n"])
@pytest.mark.parametrize("block", [1, 7, 65536])
def test_a_json_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: Any, head: str, block: int) -> None:
    path = tmp_path / "tweets.js"
    content = (head + json.dumps(TWEETS, indent=indent, ensure_ascii=False) + "\n").encode()
    path.write_bytes(content)
    if block < 100 and head:
        block += 40  # the head must be in the first block
    monkeypatch.setattr(records, "BLOCK", block)
    items = list(read_rows(path))
    assert [item.record for item in items if isinstance(item, Row)] == TWEETS
    for item in items:
        assert content[item.offset :].startswith(b"{")
        assert item.line == content[: item.offset].count(b"\n") + 1


def test_bad_elements_of_an_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 64)
    monkeypatch.setattr(records, "BLOCK", 16)
    elements = ['{"text": "a"}', "5", '{"text": bad}', '{"text": "' + "x" * 500 + '"}', '{"text": "b"}', '{"text": "c']
    (tmp_path / "a.json").write_text("[" + ",\n".join(elements))
    items = list(read_rows(tmp_path / "a.json"))
    assert [item.record["text"] if isinstance(item, Row) else item.reason[:9] for item in items] == [
        "a", "not a JSO", "not JSON ", "longer th", "b", "the file "
    ]  # fmt: skip
    assert [item.line for item in items] == [1, 2, 3, 4, 5, 6]


def test_json_lines_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert records_of(tmp_path / "a.json") == [{"text": "a"}, {"text": "b"}]
    (tmp_path / "a.js").write_text("alert(1)")
    with pytest.raises(InputError, match="not a file of a Twitter archive"):
        list(read_rows(tmp_path / "a.js"))


def test_tsv_with_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"a\tb\nc ""d"""\n2\t24" e\n')
    items = list(read_rows(tmp_path / "a.tsv", "tsv-quoted"))
    assert [item.record["text"] for item in items if isinstance(item, Row)] == ['a\tb\nc "d"', '24" e']


# --- Parquet -----------------------------------------------------------------------------------------------------


def test_parquet_to_parquet_keeps_every_type(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    n = 5000
    table = pa.table(
        {
            "text": [f"мөр {i}" for i in range(n)],
            "when": pa.array([i * 10**9 + 1 for i in range(n)], pa.timestamp("ns", "UTC")),
            "big": pa.array(range(n), pa.uint64()),
            "small": pa.array([None if i % 3 else i % 100 for i in range(n)], pa.int8()),
            "price": pa.array([Decimal(i) / 8 for i in range(n)], pa.decimal128(12, 3)),
            "raw": pa.array([bytes([i % 256]) for i in range(n)], pa.binary()),
            "tags": pa.array([["a"] * (i % 3) for i in range(n)], pa.list_(pa.large_string())),
            "user": pa.array([{"id": i, "name": None} for i in range(n)]),
            "kind": pa.array(["x" if i % 2 else "y" for i in range(n)]).dictionary_encode(),
        }
    ).replace_schema_metadata({"made": "by a test"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=1300)
    with Sink(tmp_path / "out.parquet") as sink:
        for i, row in enumerate(read_rows(tmp_path / "in.parquet")):
            assert isinstance(row, Row)
            sink.write(row.record, {"score": i / n}, row.origin)
            if i % 777 == 0:
                sink.commit()
    out = pq.read_table(tmp_path / "out.parquet")
    assert out["score"].to_pylist() == [i / n for i in range(n)]
    assert out.drop_columns("score").equals(pq.read_table(tmp_path / "in.parquet"), check_metadata=True)


def test_parquet_to_json_lines(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    when = datetime(2020, 6, 24, 12, tzinfo=timezone.utc)
    pq.write_table(pa.table({"text": ["a"], "when": [when], "raw": [b"\xff"], "n": [7]}), tmp_path / "in.parquet")
    with Sink(tmp_path / "out.jsonl") as sink:
        for row in read_rows(tmp_path / "in.parquet"):
            assert isinstance(row, Row)
            sink.write(row.record)
    assert records_of(tmp_path / "out.jsonl") == [{"text": "a", "when": when.isoformat(), "raw": "/w==", "n": 7}]


def test_json_lines_to_parquet_with_late_and_mixed_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows: list[dict] = [{"text": "a", "x": None}, {"text": "b", "x": 1}, {"text": "c", "late": {"k": [1]}}]
    rows += [{"text": "half \ud83d", "x": 1.5}, {"text": "d", "x": "word"}, {"text": "e", "x": {"deep": 1}}]
    with Sink(tmp_path / "out.parquet") as sink:
        for row in rows:
            sink.write(row)
            sink.commit()
    out = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["text"] for row in out] == ["a", "b", "c", "half \ufffd", "d", "e"]
    assert [row["x"] for row in out] == [None, "1", None, "1.5", "word", '{"deep": 1}']
    assert [row["late"] for row in out] == [None, None, {"k": [1]}, None, None, None]


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_text("text\na\n")
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        list(read_rows(tmp_path / "a.parquet"))


# --- going on ----------------------------------------------------------------------------------------------------


def make_files(folder: Path) -> list[Path]:
    """The same rows and some bad ones in every format."""
    rows = [{"id": str(i), "text": f'мөр {i} "x", {i}' + "\ny" * (i % 3 == 0)} for i in range(60)]
    names = ["a.csv", "a.jsonl", "a.csv.gz", "a.jsonl.xz", "a.csv.zst"]
    for name in names:
        with Sink(folder / name) as sink:
            for row in rows:
                sink.write(row)
    bad = (folder / "a.csv").read_bytes().replace(b'"7,', b'"7').replace(b'20,"', b'20,""x"') + b'1,"open\n2,b\n3,c\n'
    (folder / "bad.csv").write_bytes(b"\xef\xbb\xbf" + bad)
    (folder / "a.js").write_text("window.YTD.tweets.part0 = " + json.dumps(rows, indent=1))
    (folder / "a.txt").write_text("a\r\n\nb\nc")
    paths = [folder / name for name in [*names, "bad.csv", "a.js", "a.txt"]]
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        return paths
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=17)
    return [*paths, folder / "a.parquet"]


def test_reading_goes_on_at_any_record(tmp_path: Path) -> None:
    for path in make_files(tmp_path):
        items = list(read_items(path))
        assert len(items) >= 4
        for index, item in enumerate(items):
            assert list(read_items(path, at=Place(item.line, item.offset))) == items[index:], (path.name, index)


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.csv", "a.txt.gz"])
def test_a_line_of_100_megabytes_takes_no_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with gzip.open(path, "wb", 1) if name.endswith("gz") else path.open("wb") as stream:
        stream.write({"a.json": b'["', "a.csv": b'text\n"'}.get(name, b""))
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
        stream.write({"a.json": b'", {"text": "b"}]', "a.csv": b'"\nb\n'}.get(name, b"\nb\n"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, second = read_rows(path)
    assert isinstance(first, Reject)
    assert isinstance(second, Row)
    assert second.record == {"text": "b"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


# --- which files -------------------------------------------------------------------------------------------------


def test_directories_and_globs(tmp_path: Path) -> None:
    for name in [
        "b.csv",
        "a.jsonl.gz",
        "sub/c.parquet",
        ".hidden.csv",
        "notes.md",
        "data.json",
        "tweets.js",
        "like.js",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def names(*given: str, **options: Any) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in expand([str(tmp_path / name) for name in given], **options)]

    assert names(".") == ["a.jsonl.gz", "b.csv", "sub/c.parquet", "tweets.js"]
    assert names(".", without=[tmp_path / "b.csv"]) == ["a.jsonl.gz", "sub/c.parquet", "tweets.js"]
    assert names("sub", "*.csv") == ["sub/c.parquet", "b.csv"]
    assert names("**/*.parquet") == ["sub/c.parquet"]
    assert names("data.json", "b.csv", "b.csv") == ["data.json", "b.csv", "b.csv"]
    assert "notes.md" in names(".", format="text")
    for missing in ("none.csv", "*.xyz"):
        with pytest.raises(InputError, match="no such file"):
            names(missing)
    with pytest.raises(InputError, match="its name does not tell its format"):
        names("*.md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="without a file of a known format"):
        names("empty")


@pytest.mark.parametrize("name", ["in.jsonl", "in.json"])
def test_json_comes_through_to_the_last_digit(tmp_path: Path, name: str) -> None:
    rows = [
        '{"id": 12345678901234567890, "n": 1.10000000000000000001, "far": 1e999}',
        '{ "half":"\\ud83d" , "escaped": "\\u0441\\/" }',
        "{}",
    ]
    pretty = [row.replace(", ", " ,\r\n\t ") for row in rows]
    (tmp_path / name).write_text("\n".join(rows) if name == "in.jsonl" else f"[{','.join(pretty)}]", newline="")
    for out in ("out.jsonl", "out.parquet"):
        with Sink(tmp_path / out) as sink:
            for item in read_items(tmp_path / name):
                assert isinstance(item, Row)
                sink.write(item.record, {"label": "x"}, item.origin)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    if name == "in.jsonl":
        assert lines == [f'{row.rstrip(" }")}, "label": "x"}}' for row in rows[:2]] + ['{"label": "x"}']
    else:
        assert '"n": 1.10000000000000000001 , "far": 1e999, "label": "x"}' in lines[0]
        assert json.loads(lines[1]) == json.loads(rows[1]) | {"label": "x"}
    assert [row["label"] for row in records_of(tmp_path / "out.parquet")] == ["x"] * 3
