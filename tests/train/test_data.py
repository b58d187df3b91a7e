"""Labelled files -> train and dev: the two forms of input, and the split that keeps equal texts together."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jirgee.errors import InputError
from jirgee.labelled import Labelled
from jirgee_train.data import describe, hold_out, read_dataset
from jirgee_train.repeats import group_rows

from .conftest import write_tsv

ROWS = [(f"текст {i}", "ab"[i % 2]) for i in range(20)]


def read(*paths, share=0.25, seed=1, **columns):
    return read_dataset(paths, share, seed, **columns)


def test_a_directory_gives_its_train_and_dev_files(samples):
    data = read(samples)
    assert (len(data.train), len(data.dev)) == (540, 180)
    assert data.classes == ["comedian", "commentator"]
    assert data.dev.where[0] == (samples / "dev.tsv", 2)
    assert describe(data).splitlines() == [
        "train: 540 rows (comedian 270, commentator 270)",
        "dev: 180 rows (comedian 90, commentator 90)",
    ]


def test_a_directory_without_a_dev_file_holds_rows_out(tmp_path):
    (tmp_path / "train.jsonl.gz").write_bytes(
        gzip.compress("".join(f'{{"text": "{t}", "label": "{label}"}}\n' for t, label in ROWS).encode())
    )
    data = read(tmp_path)
    assert sorted(data.train.texts + data.dev.texts) == sorted(text for text, _ in ROWS)
    assert Counter(data.dev.labels) == {"a": 2, "b": 2}


def test_a_directory_without_a_train_file_says_which_names_it_looks_for(tmp_path):
    write_tsv(tmp_path / "data.tsv", ROWS)
    with pytest.raises(InputError, match=r"holds no train\.tsv, train\.csv or train\.jsonl"):
        read(tmp_path)


def test_several_files_are_read_as_one(tmp_path):
    first, second = write_tsv(tmp_path / "one.tsv", ROWS[:10]), write_tsv(tmp_path / "two.tsv", ROWS[10:])
    data = read(first, second)
    assert len(data.train) + len(data.dev) == 20
    assert {path for path, _ in data.train.where} == {first, second}


def test_the_original_layout_is_read_by_position(tmp_path):
    path = write_tsv(tmp_path / "train.tsv", ROWS, header=("tweet", "class"))
    assert set(read(path).train.texts) <= {text for text, _ in ROWS}
    assert read(path).classes == ["a", "b"]


def test_position_is_not_guessed_where_a_header_names_one_column_or_there_are_three(tmp_path):
    path = write_tsv(tmp_path / "one.tsv", ROWS, header=("tweet", "label"))
    with pytest.raises(InputError, match=r'one\.tsv:2: no "text" column \(it has tweet, label\); pass --text-column'):
        read(path)
    path.write_text("id\ttweet\tclass\n1\tтекст\ta\n", encoding="utf-8")
    with pytest.raises(InputError, match='no "text" column'):
        read(path)
    path = tmp_path / "two.csv"
    path.write_text("tweet,class\nтекст,a\n", encoding="utf-8")
    with pytest.raises(InputError, match='no "text" column'):
        read(path)


def test_columns_can_be_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,class,tweet\n" + "".join(f"{i},{c},{t}\n" for i, (t, c) in enumerate(ROWS)), encoding="utf-8")
    data = read(path, text_column="tweet", label_column="class")
    assert dict(zip(data.train.texts, data.train.labels, strict=True)).items() <= dict(ROWS).items()


def test_a_dev_label_that_train_has_not_is_named_with_its_line(tmp_path):
    write_tsv(tmp_path / "train.tsv", ROWS)
    dev = write_tsv(tmp_path / "dev.tsv", [("нэг", "a"), ("хоёр", "в")])
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{dev}:3: unknown label 'в'")


def test_one_label_is_not_enough(tmp_path):
    path = write_tsv(tmp_path / "rows.tsv", [(text, "a") for text, _ in ROWS])
    with pytest.raises(InputError, match=r"rows\.tsv: every row has the label 'a'; .* at least two labels"):
        read(path)


def labelled(rows):
    texts, labels = zip(*rows, strict=True)
    return Labelled(list(texts), list(labels), [(Path("rows.tsv"), i + 2) for i in range(len(rows))])


def split(rows, share, seed):
    in_dev = hold_out(rows, group_rows(rows), share, seed)
    return rows.take(np.flatnonzero(~in_dev).tolist()), rows.take(np.flatnonzero(in_dev).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_hold_out_keeps_equal_texts_together_and_every_label_in_train(seed):
    rows = [(f"текст {i % 12}", "a") for i in range(40)] + [("ховор 1", "b"), ("ховор 2", "b"), ("ховор 2", "b")]
    train, dev = split(labelled(rows), 0.3, seed)
    assert not set(train.texts) & set(dev.texts)
    assert set(train.labels) == set(dev.labels) == {"a", "b"}
    assert Counter(zip(train.texts + dev.texts, train.labels + dev.labels, strict=True)) == Counter(rows)


def test_hold_out_keeps_a_text_together_that_has_two_labels():
    rows = [(f"текст {i}", label) for i in range(30) for label in "ab"]
    train, dev = split(labelled(rows), 0.4, 3)
    assert not set(train.texts) & set(dev.texts)
    assert set(train.labels) == set(dev.labels) == {"a", "b"}
    assert len(train) + len(dev) == 60


def test_hold_out_gives_about_the_share_and_the_same_rows_for_a_seed():
    rows = labelled([(f"текст {i}", "abc"[i % 3]) for i in range(300)])
    _, dev = split(rows, 0.2, 5)
    assert Counter(dev.labels) == {"a": 20, "b": 20, "c": 20}
    assert split(rows, 0.2, 5)[1].texts == dev.texts
    assert split(rows, 0.2, 6)[1].texts != dev.texts


def test_a_label_with_one_distinct_text_cannot_be_split():
    with pytest.raises(InputError, match="label 'b' has one distinct text or group; at least two"):
        split(labelled([("нэг", "a"), ("хоёр", "a"), ("гурав", "b"), ("гурав", "b")]), 0.5, 1)
