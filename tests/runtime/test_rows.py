"""Reading files: every good row comes through, every bad one is named by line and byte, and none hides another."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import pytest

from jirgee import records
from jirgee.errors import InputError
from jirgee.rows import Reject, Row, format_of, read_rows


def read(tmp_path: Path, name: str, content: bytes) -> list[Row | Reject]:
    """The rows of a file, after checking that each offset is where that row begins."""
    path = tmp_path / name
    path.write_bytes(content)
    items = list(read_rows(path))
    for item in items:
        before = content[: item.offset]
        assert before.count(b"\n") == item.line - 1
        assert item.offset == 0 or before.endswith((b"\n", b"\xef\xbb\xbf"))
    return items


def short(items: list[Row | Reject]) -> list[Any]:
    """``(line, record)`` of the rows, ``(line, "!reason")`` of the rejects."""
    return [(item.line, item.record if isinstance(item, Row) else f"!{item.reason}") for item in items]


def texts(items: list[Row | Reject]) -> list[str]:
    return [item.record["text"] if isinstance(item, Row) else "!" for item in items]


# --- which format ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.csv", "csv"),
        ("a.TSV", "tsv"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.txt", "text"),
        ("a.csv.gz", "csv"),
        ("a.b.jsonl.XZ", "jsonl"),
    ],
)
def test_the_name_tells_the_format(name: str, format: str) -> None:
    assert format_of(name) == format


@pytest.mark.parametrize("name", ["a", "a.gz", "a.xlsx", "csv", ".csv.bak"])
def test_a_name_that_does_not_tell(name: str) -> None:
    with pytest.raises(InputError, match=r"pass --format csv\|tsv\|tsv-quoted\|jsonl"):
        format_of(name)
    assert format_of(name, "csv") == "csv"
    with pytest.raises(InputError, match="no such format 'xml'"):
        format_of(name, "xml")


# --- good files --------------------------------------------------------------------------------------------------

TABLE = [{"id": "1", "text": "сайн уу"}, {"id": "2", "text": ""}]
GOOD = {
    "a.csv": "id,text\n1,сайн уу\n2,\n",
    "a.tsv": "id\ttext\n1\tсайн уу\n2\t\n",
    "a.jsonl": '{"id": "1", "text": "сайн уу"}\n{"id": "2", "text": ""}\n',
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", list(GOOD))
def test_line_ends_and_marks_change_nothing(tmp_path: Path, name: str, ending: str, bom: bytes, last: bool) -> None:
    content = GOOD[name] if last else GOOD[name].removesuffix("\n")
    items = read(tmp_path, name, bom + content.replace("\n", ending).encode())
    assert [item.record for item in items if isinstance(item, Row)] == TABLE


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("name", list(GOOD))
def test_compressed_files_read_the_same(tmp_path: Path, name: str, suffix: str, compress: Any) -> None:
    (tmp_path / name).write_bytes(GOOD[name].encode())
    (tmp_path / (name + suffix)).write_bytes(compress(GOOD[name].encode()))
    assert list(read_rows(tmp_path / (name + suffix))) == list(read_rows(tmp_path / name))


def test_plain_text_is_one_text_a_line(tmp_path: Path) -> None:
    items = read(tmp_path, "a.txt", "нэг\r\n\n  гурав \tx\n\u2028тав".encode())
    assert texts(items) == ["нэг", "", "  гурав \tx", "\u2028тав"]


def test_csv_quotes(tmp_path: Path) -> None:
    content = b'id,text\r\n1,"a, ""b"""\r\n2,"line one\r\nline two\n"\r\n3,plain\r\n'
    items = read(tmp_path, "a.csv", content)
    assert texts(items) == ['a, "b"', "line one\r\nline two\n", "plain"]
    assert [item.line for item in items] == [2, 3, 6]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    items = read(tmp_path, "a.tsv", b'id\ttext\n1\t"open\n2\tclosed"\n')
    assert texts(items) == ['"open', 'closed"']


def test_jsonl_keeps_its_types_and_skips_blank_lines(tmp_path: Path) -> None:
    items = read(tmp_path, "a.jsonl", b'\n{"text": "a", "n": 1, "x": null, "l": [1, {}]}\n  \n{"text": "b"}\n')
    assert short(items) == [(2, {"text": "a", "n": 1, "x": None, "l": [1, {}]}), (4, {"text": "b"})]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0bd\x0ce"
    for name, content in (("a.tsv", f"id\ttext\n1\t{text}\n"), ("a.csv", f"id,text\n1,{text}\n")):
        assert texts(read(tmp_path, name, content.encode())) == [text]


# --- bad rows ----------------------------------------------------------------------------------------------------


def test_wrong_column_counts(tmp_path: Path) -> None:
    items = read(tmp_path, "a.csv", b"id,text\n1\n2,b\n3,c,d\n4,e\n")
    assert short(items) == [
        (2, "!1 columns where the header has 2"),
        (3, {"id": "2", "text": "b"}),
        (4, "!3 columns where the header has 2"),
        (5, {"id": "4", "text": "e"}),
    ]


@pytest.mark.parametrize(("name", "comma"), [("a.csv", b","), ("a.tsv", b"\t")])
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str, comma: bytes) -> None:
    bad = "2,муу".encode("cp1251").replace(b",", comma)
    items = read(tmp_path, name, b"id,text\n1,a\n".replace(b",", comma) + bad + b"\n3,c\n".replace(b",", comma))
    assert texts(items) == ["a", "!", "c"]
    assert isinstance(items[1], Reject)
    assert items[1].reason == "not UTF-8 (byte 0xec at position 3 of the row)"
    assert items[1].raw.startswith(bad)
    assert items[1].to_json(Path("a.csv"))["raw"].startswith("2" + comma.decode() + "\\xec")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_nul_bytes(tmp_path: Path, name: str) -> None:
    row = {"a.csv": "x", "a.tsv": "x", "a.jsonl": '{"text": "x"}', "a.txt": "x"}[name]
    head = "" if name in ("a.jsonl", "a.txt") else "text\n"
    items = read(tmp_path, name, f"{head}{row}\n{row}\0\n{row}\n".encode())
    assert texts(items) == ["x", "!", "x"]
    assert isinstance(items[1], Reject)
    assert items[1].reason == "holds a NUL character"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
@pytest.mark.parametrize("extra", [1, 70, 5000])
def test_over_long_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: int) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 64)
    row = {"a.csv": "x", "a.tsv": "x", "a.jsonl": '{"text": "x"}', "a.txt": "x"}[name]
    head = "" if name in ("a.jsonl", "a.txt") else "text\n"
    items = read(tmp_path, name, f"{head}{row}\n{'y' * (63 + extra)}\n{row}\n{'z' * (64 + extra)}".encode())
    assert texts(items) == ["x", "!", "x", "!"]
    assert all(item.reason == "longer than 64 bytes" for item in items if isinstance(item, Reject))
    assert all(len(item.raw) <= 4096 for item in items if isinstance(item, Reject))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("{", "not JSON"),
        ('{"text": "a"} x', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"text": ' + "9" * 5000 + "}", "not JSON"),
        ("{'text': 'a'}", "not JSON"),
    ],
)
def test_lines_that_are_not_json_objects(tmp_path: Path, line: str, reason: str) -> None:
    items = read(tmp_path, "a.jsonl", f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n'.encode())
    assert texts(items) == ["a", "!", "b"]
    assert isinstance(items[1], Reject)
    assert items[1].reason.startswith(reason)
    assert "\n" not in items[1].reason


# --- CSV quotes that go wrong --------------------------------------------------------------------------------------


def test_a_quote_never_closed_costs_its_line(tmp_path: Path) -> None:
    content = b'id,text\n1,a\n2,"open\n3,c\n4,d\n'
    assert texts(read(tmp_path, "a.csv", content)) == ["a", "!", "c", "d"]


def test_a_quote_never_closed_costs_its_line_before_a_long_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 64)
    content = b'id,text\n1,"open\n' + b"2,fine\n" * 40 + b'3,"x\ny"\n4,' + b"z" * 100 + b"\n5,end\n"
    assert texts(read(tmp_path, "a.csv", content)) == ["!", *["fine"] * 40, "x\ny", "!", "end"]


def test_two_open_quotes_cost_their_two_lines(tmp_path: Path) -> None:
    """Together they look like one long quoted cell."""
    content = b'id,text\n1,"open\n2,b\n3,c\n4,"open too\n5,e\n'
    assert texts(read(tmp_path, "a.csv", content)) == ["!", "b", "c", "!", "e"]


def test_a_quote_inside_a_cell_is_a_character(tmp_path: Path) -> None:
    content = b'id,text\n1,a 24" screen\n2,b\n3,"and a ""24"""\n4,so "they" say, "x"\n5,5" and 6"\n'
    items = read(tmp_path, "a.csv", content)
    assert texts(items) == ['a 24" screen', "b", 'and a "24"', "!", '5" and 6"']


def test_text_after_a_closing_quote_costs_its_line(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.csv", b'id,text\n1,"a" b\n2,"c"d"\n3,e\n')) == ["!", "!", "e"]


def test_many_open_quotes_do_not_take_forever(tmp_path: Path) -> None:
    import time

    began = time.perf_counter()
    items = read_rows_of(tmp_path, b"id,text\n" + b'1,"open\n2,""\n' * 20_000)
    assert len(items) > 20_000
    assert time.perf_counter() - began < 10


def read_rows_of(tmp_path: Path, content: bytes) -> list[Row | Reject]:
    (tmp_path / "a.csv").write_bytes(content)
    return list(read_rows(tmp_path / "a.csv"))


# --- bad files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_an_empty_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"\n\n") if name.endswith("gz") else b"")
    with pytest.raises(InputError, match=f"{name}: the file is empty"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_an_empty_list(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, b"") == []


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"text,text\n", "1: the header names a column twice"),
        (b"te\xffxt,a\n", "1: the header line is unreadable: not UTF-8"),
        (b"te\0xt,a\n", "1: the header line is unreadable: holds a NUL"),
        (b'"text,a\n', "1: the header line is unreadable: a double quote"),
        (b'\n"text" x,a\n', "2: the header line is unreadable: not a CSV row"),
        (b"text,a\r1,2\r", "1: the header line is unreadable: not a CSV row"),
    ],
)
def test_a_header_of_no_use(tmp_path: Path, header: bytes, reason: str) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, "a.csv", header + b"1,2\n")
    assert str(error.value).startswith(f"{tmp_path / 'a.csv'}:{reason}")


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_damaged_compressed_file(tmp_path: Path, suffix: str, compress: Any) -> None:
    whole = compress(b"".join(b"line %d\n" % i for i in range(5000)))
    path = tmp_path / f"a.txt{suffix}"
    for content in (whole[: len(whole) // 2], whole[:5], b"no compression at all\n", whole[:-3] + b"abc"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cut short or damaged") as error:
            list(read_rows(path))
        assert error.value.path == path


def test_the_rows_before_the_damage_come_through(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"line %d\n" % i for i in range(200_000)))
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    items = read_rows(tmp_path / "a.txt.gz")
    assert isinstance(first := next(items), Row)
    assert first.record == {"text": "line 0"}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: No such file"):
        list(read_rows(tmp_path / "none.csv"))
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(InputError, match=r"dir\.csv: Is a directory"):
        list(read_rows(tmp_path / "dir.csv"))
