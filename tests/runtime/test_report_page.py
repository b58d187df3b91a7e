"""``jirgee score --report``: the figures of a scored file, and the page of them."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jirgee import scored
from jirgee.errors import InputError
from jirgee.report_page import PERIODS, render
from jirgee.scored import Figures, collect

from .conftest import Jirgee

CLASSES = ["no", "yes"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(text: str, score: float, label: str | None = "yes", **more: Any) -> dict[str, Any]:
    return {"text": text, **more, "label": label, "score": score, "p_no": 1 - score, "p_yes": score}


def columns_of(page: str) -> list[str]:
    """Titles of the bars over time."""
    chart = page.split("Labels over time")[1].split("</svg>")[0]
    return [part.split("</title>")[0] for part in chart.split("<title>")[1:]]


def test_counts(tmp_path: Path) -> None:
    rows = [row("a", 0.5), row("b", 0.55), row("c", 1.0), row("d", 0.95, "no"), row("e", 0.949, None)]
    figures = collect(write(tmp_path / "out.jsonl", rows), CLASSES)
    assert figures.rows == 5
    assert figures.labels == {"yes": 3, "no": 1, "": 1}
    assert figures.confidence[10:] == [1, 1, 0, 0, 0, 0, 0, 0, 1, 2]
    assert sum(figures.confidence) == 5
    assert figures.dated == 0
    assert "Labels over time" not in render(figures, "out.jsonl", "bundle")


def test_surest_and_least_sure_once_each(tmp_path: Path) -> None:
    rows = [row(f"text {i % 70}", 0.5 + (i * 37 % 70) / 140) for i in range(210)]
    figures = collect(write(tmp_path / "out.jsonl", rows), CLASSES)
    ranked = sorted({row["text"]: row["score"] for row in rows}.items(), key=lambda item: item[1])
    assert [(shown.text, shown.score) for shown in figures.least_sure] == ranked[:20]
    assert [(shown.text, shown.score) for shown in figures.surest] == ranked[::-1][:20]


@pytest.mark.parametrize(
    ("record", "column"),
    [
        ({"created_at": "2026-03-02T23:59:59Z"}, "text"),
        ({"created_at": "Mon Mar 02 23:59:59 +0000 2026"}, "text"),
        ({"data": {"text": "x", "created_at": "2026-03-02"}}, "data.text"),
        ({"tweet": {"full_text": "x", "created_at": "Mon Mar 02 23:59:59 +0000 2026"}}, "text"),
    ],
)
def test_dates_as_twitter_writes_them(tmp_path: Path, record: dict[str, Any], column: str) -> None:
    scores = row("x", 0.9)
    if "created_at" not in record:
        del scores["text"]
    figures = collect(write(tmp_path / "out.jsonl", [record | scores]), CLASSES, column)
    assert columns_of(render(figures, "a", "b")) == ["2026-03-02: no 0.0% of 1", "2026-03-02: yes 100.0% of 1"]


def test_what_is_no_date_is_not_counted(tmp_path: Path) -> None:
    rows = [row("a", 0.9, created_at=value) for value in ("", "yesterday", None, 17, "2026-02-30", "2026-02-28")]
    assert collect(write(tmp_path / "out.jsonl", rows), CLASSES).dated == 1


def test_long_times_are_counted_in_wider_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored, "MOST_PERIODS", 100)
    rows = [row(f"t{i}", 0.9, "yes" if i % 4 else "no", created_at=f"{1900 + i // 12}-{i % 12 + 1:02}-01")
            for i in range(1200)]  # fmt: skip
    figures = collect(write(tmp_path / "out.jsonl", rows), CLASSES)
    assert len(figures.periods) <= 100
    assert sum((Counter(labels) for labels in figures.periods.values()), Counter()) == {"yes": 900, "no": 300}
    titles = columns_of(render(figures, "a", "b"))
    assert len(titles) <= 2 * PERIODS
    assert sum(int(title.rpartition(" of ")[2]) for title in titles if ": yes " in title) == 1200


def test_columns_with_a_prefix_and_none(tmp_path: Path) -> None:
    mine = {f"predicted_{name}": value for name, value in row("a", 0.9).items() if name != "text"}
    own = row("a", 0.1, "no")
    figures = collect(write(tmp_path / "out.jsonl", [own | mine]), CLASSES)
    assert figures.labels == {"yes": 1}
    with pytest.raises(InputError, match="lacks the columns"):
        collect(write(tmp_path / "other.jsonl", [{"text": "a", "label": "yes"}]), CLASSES)


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]


def test_nothing_in_a_tweet_becomes_markup(tmp_path: Path) -> None:
    bad = '<script>alert("x")</script><img src=http://e.mn/a.png>&amp;'
    classes = ["<b>", "yes"]
    rows = [{"text": bad, "created_at": "2026-01-01", "label": "<b>", "score": 0.9, "p_<b>": 0.9, "p_yes": 0.1}]
    page = render(collect(write(tmp_path / "out.jsonl", rows), classes), "<i>.jsonl", "<i>")
    elements = Elements()
    elements.feed(page)
    assert not {"script", "img", "b>", "i"} & elements.names.keys()
    assert elements.names["b"] == 3  # the figures of the tiles
    assert elements.addresses == ["data:,"]
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "&amp;amp;" in page


def test_many_classes_share_the_last_colour() -> None:
    classes = [f"c{i}" for i in range(12)]
    figures = Figures(classes, rows=78, labels=Counter({name: i + 1 for i, name in enumerate(classes)}))
    page = render(figures, "a", "b")
    assert "<span>other</span>" in page
    assert "<span>c11</span>" in page
    assert "<span>c0</span>" not in page


def test_an_empty_output_has_a_page(tmp_path: Path) -> None:
    assert "<b>0</b>" in render(collect(write(tmp_path / "out.jsonl", []), CLASSES), "a", "b")


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl.gz", "out.parquet"])
def test_the_command(jirgee: Jirgee, tiny_bundle: Path, samples: Path, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    command = ["score", tiny_bundle, samples / "tweets.csv", "-o", name, "--report", "report.html"]
    run = jirgee(*command, "--abstain-below", "0.6")
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>2,000</b>" in page
    assert "<span>no label</span>" in page
    assert columns_of(page)[0].startswith("2026-03-02: comedian ")
    again = jirgee(*command)
    assert again.returncode == 1
    assert "report.html: exists already" in again.stderr
    assert jirgee(*command, "--abstain-below", "0.6", "--resume").returncode == 0
    assert page == (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_report_is_no_other_file_of_the_run(jirgee: Jirgee, tiny_bundle: Path, samples: Path) -> None:
    for other in ("out.csv", "bad.jsonl"):
        run = jirgee("score", tiny_bundle, samples / "tweets.csv", "-o", "out.csv", "--rejects", "bad.jsonl",
                     "--report", other)  # fmt: skip
        assert run.returncode == 1
        assert "write the report to another file" in run.stderr
