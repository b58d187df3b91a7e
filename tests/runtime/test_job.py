"""Scoring files: rows in order, every input column as it came, every row scored or rejected, once."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jirgee import job
from jirgee.errors import InputError
from jirgee.job import Columns, Summary, score_files
from jirgee.layout import LOW_MEMORY
from jirgee.rows import Row, Sink, read_rows
from jirgee.scorer import Scorer

ADDED = ["label", "score", "p_comedian", "p_commentator"]


def run(scorer: Scorer, inputs: list[Path], out: Path, rejects: Path | None = None, **options: Any) -> Summary:
    with Sink(out) as sink:
        if rejects is None:
            return score_files(scorer, inputs, sink, **options)
        with Sink(rejects, "jsonl") as bad:
            return score_files(scorer, inputs, sink, rejects=bad, **options)


def records(path: Path) -> list[dict[str, Any]]:
    return [item.record for item in read_rows(path) if isinstance(item, Row)]


def test_chunks_are_small_where_memory_is_short(tiny_bundle: Path, samples: Path, tmp_path: Path) -> None:
    ticks: dict[bool, list[int]] = {False: [], True: []}
    for lean, sizes in ticks.items():
        with Scorer.load(tiny_bundle, "cpu", layout=replace(LOW_MEMORY, lean=lean)) as scorer:
            run(scorer, [samples / "tweets.csv"], tmp_path / f"{lean}.csv", progress=sizes.append)
    assert max(ticks[True]) == job.LEAN_CHUNK < max(ticks[False])
    assert (tmp_path / "True.csv").read_bytes() == (tmp_path / "False.csv").read_bytes()


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.csv.gz"])
@pytest.mark.parametrize("chunk", [7, 4096])
def test_rows_in_order_with_every_column(
    scorer: Scorer, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, chunk: int
) -> None:
    monkeypatch.setattr(job, "CHUNK", chunk)
    read = records(samples / "tweets.csv")[:500]
    source = write_csv(tmp_path / "in.csv", read)
    ticks: list[int] = []
    summary = run(scorer, [source], tmp_path / out, progress=ticks.append)
    scored = records(tmp_path / out)
    assert [{name: row[name] for name in read[0]} for row in scored] == read
    assert [name for name in scored[0] if name not in read[0]] == ADDED + (["probs"] if "jsonl" in out else [])
    assert (summary.rows, summary.scored, summary.rejected) == (500, 500, 0)
    assert sum(ticks) == 500

    expected = scorer.score([row["text"] for row in read])
    assert [row["label"] for row in scored] == expected.labels
    probs = [[float(row["p_comedian"]), float(row["p_commentator"])] for row in scored]
    np.testing.assert_allclose(probs, expected.probs, atol=2e-5)
    assert [float(row["score"]) for row in scored] == [max(row) for row in probs]
    assert summary.truncated == expected.truncated.sum()


def test_jsonl_keeps_types_and_adds_probs(scorer: Scorer, tmp_path: Path) -> None:
    rows = [{"text": "сайн", "n": 1, "deep": {"a": [None, True]}}, {"text": "муу", "other": "é"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(scorer, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    scored = records(tmp_path / "out.jsonl")
    for row, came in zip(scored, rows, strict=True):
        assert {name: row[name] for name in came} == came
        assert set(row) == {*came, *ADDED, "probs"}
        assert row["probs"] == {"comedian": row["p_comedian"], "commentator": row["p_commentator"]}
        assert row["score"] == row["probs"][row["label"]]


@pytest.mark.parametrize("column", ["label", "score", "p_comedian", "probs"])
def test_a_column_of_that_name_comes_through_unchanged(scorer: Scorer, tmp_path: Path, column: str) -> None:
    source = write_csv(tmp_path / "in.csv", [{"text": "сайн", column: "mine"}, {"text": "муу", column: "too"}])
    run(scorer, [source], tmp_path / "out.csv")
    scored = records(tmp_path / "out.csv")
    assert [row[column] for row in scored] == ["mine", "too"]
    assert list(scored[0]) == ["text", column, *(f"predicted_{name}" for name in ADDED)]


def test_scoring_what_was_scored_twice_loses_nothing(scorer: Scorer, tmp_path: Path) -> None:
    before = write_csv(tmp_path / "0.csv", [{"text": "сайн", "label": "mine"}])
    for turn in range(3):
        after = tmp_path / f"{turn + 1}.csv"
        run(scorer, [before], after)
        (old,), (new,) = records(before), records(after)
        assert {name: new[name] for name in old} == old
        assert len(new) == len(old) + len(ADDED)
        before = after


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl"])
def test_a_later_row_with_a_column_of_that_name(scorer: Scorer, tmp_path: Path, out: str) -> None:
    """The columns are named by the first row; a later one must not lose its own ``label`` in silence."""
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b", "label": "mine"}\n{"text": "c"}\n')
    with pytest.raises(InputError, match=r'in\.jsonl:2: .*"label"'):
        run(scorer, [tmp_path / "in.jsonl"], tmp_path / out)
    summary = run(scorer, [tmp_path / "in.jsonl"], tmp_path / out, tmp_path / "bad.jsonl")
    assert (summary.rows, summary.scored, summary.rejected) == (3, 2, 1)
    assert "mine" in records(tmp_path / "bad.jsonl")[0]["raw"]


def test_several_files_are_one_run(scorer: Scorer, tmp_path: Path, texts: list[str]) -> None:
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    first = write_csv(tmp_path / "a.csv", rows[:20])
    second = tmp_path / "b.jsonl"
    second.write_text("".join(json.dumps(row) + "\n" for row in rows[20:]))
    summary = run(scorer, [first, second], tmp_path / "out.csv")
    assert [row["id"] for row in records(tmp_path / "out.csv")] == [row["id"] for row in rows]
    assert summary.rows == summary.scored == len(rows)


def test_every_row_is_scored_or_rejected(scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK", 9)
    rng = random.Random(5)
    bad = ["[1]", "{", '{"text": 5}', '{"other": "x"}', '{"text": null}', "\0", '{"text": ["a"]}']
    lines, good = [], []
    for i in range(300):
        if rng.random() < 0.3:
            lines.append(rng.choice(bad))
        else:
            good.append(i)
            lines.append(json.dumps({"text": f"текст {i}", "i": i}))
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    summary = run(scorer, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert summary.rows == 300 == summary.scored + summary.rejected
    assert [row["i"] for row in records(tmp_path / "out.jsonl")] == good
    rejects = records(tmp_path / "bad.jsonl")
    assert [row["line"] - 1 for row in rejects] == sorted(set(range(300)) - set(good))
    content = (tmp_path / "in.jsonl").read_bytes()
    assert all(content[row["offset"] :].startswith(lines[row["line"] - 1].encode()) for row in rejects)
    assert {row["file"] for row in rejects} == {str(tmp_path / "in.jsonl")}
    assert str(summary.scored) in summary.line()


def test_without_rejects_the_first_bad_row_is_an_error(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,a\n2\n3,c\n")
    with pytest.raises(InputError, match=r"in\.csv:3: 1 columns .*pass --rejects FILE"):
        run(scorer, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("where", ["rejects", "no rejects"])
def test_a_table_without_the_column(scorer: Scorer, tmp_path: Path, where: str) -> None:
    (tmp_path / "in.csv").write_text("id,tweet\n1,сайн\n2,муу\n")
    if where == "no rejects":
        with pytest.raises(InputError, match=r'in\.csv:2: no "text" column \(it has id, tweet\); pass --text-column'):
            run(scorer, [tmp_path / "in.csv"], tmp_path / "out.csv")
    else:
        summary = run(scorer, [tmp_path / "in.csv"], tmp_path / "out.csv", tmp_path / "bad.jsonl")
        assert (summary.scored, summary.rejected) == (0, 2)
    run(scorer, [tmp_path / "in.csv"], tmp_path / "good.csv", text_column="tweet")
    assert len(records(tmp_path / "good.csv")) == 2


def test_an_empty_input(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    summary = run(scorer, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert (summary.rows, summary.scored) == (0, 0)
    assert "0 rows" in summary.line()
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_names_beside_a_record() -> None:
    plain = Columns.beside({"text": ""}, ["a", "b"], nested=False)
    assert plain.names == ["label", "score", "p_a", "p_b"]
    assert Columns.beside({"score": ""}, ["a"], nested=True).names[-1] == "predicted_probs"
