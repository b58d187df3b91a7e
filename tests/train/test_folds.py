"""``jirgee train --folds``: splits that keep repeats together, and figures that are those of the folds."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jirgee.cli import main
from jirgee.errors import InputError
from jirgee.labelled import Labelled
from jirgee_train.cli import TRAIN

if TRAIN.missing():
    pytest.skip("needs the extra [train]", allow_module_level=True)

from jirgee_train.folds import read_folds, split


def labelled(rows, groups=()):
    texts, labels = zip(*rows, strict=True)
    return Labelled(list(texts), list(labels), [(Path("rows.tsv"), i + 2) for i in range(len(rows))], list(groups))


def test_every_row_is_judged_once_with_its_repeats_and_labels_in_proportion():
    rows = labelled([(form.format(i), "ab"[i % 4 == 0]) for i in range(40) for form in ("мөр {}", "RT @x: Мөр {}!")])
    folds = split(rows, 4, 1)
    assert sorted(where for data in folds for where in data.dev.where) == sorted(rows.where)
    for data in folds:
        assert len(data.train) + len(data.dev) == 80
        assert data.hygiene.leaked == 0
        assert not {line // 2 for _, line in data.train.where} & {line // 2 for _, line in data.dev.where}
        assert Counter(data.dev.labels)["b"] in (4, 6)
    again = split(rows, 4, 1)
    assert [data.dev.where for data in again] == [data.dev.where for data in folds]
    assert [data.dev.where for data in split(rows, 4, 2)] != [data.dev.where for data in folds]


def test_a_group_is_in_one_fold():
    rows = labelled([(f"мөр {i}", "ab"[i % 2]) for i in range(60)], [f"зохиогч {i // 6}" for i in range(60)])
    for data in split(rows, 5, 3):
        assert not set(data.train.groups) & set(data.dev.groups)
        assert len(data.dev) == 12


def test_the_rows_of_a_dev_file_are_in_the_folds_too(samples):
    folds = read_folds([samples], 3, 42)
    assert sum(len(data.dev) for data in folds) == 720
    assert all(set(data.dev.labels) == {"comedian", "commentator"} for data in folds)


@pytest.mark.parametrize(
    ("k", "words"),
    [(1, "--folds 1: at least 2"), (4, "label 'b' has 2 distinct texts or groups; pass --folds 2")],
)
def test_folds_that_cannot_be(k, words):
    rows = labelled([*((f"мөр {i}", "a") for i in range(9)), ("нэг", "b"), ("НЭГ!", "b"), ("хоёр", "b")])
    with pytest.raises(InputError, match=words):
        split(rows, k, 1)


def test_the_command_trains_each_fold_and_says_mean_and_spread(capsys, tmp_path, samples, original_base):
    rows = (samples / "train.tsv").read_text(encoding="utf-8").splitlines()[:91]
    (tmp_path / "rows.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    flags = ["--base", str(original_base), "--max-tokens", "24", "--epochs", "1", "--ngrams", "10", "--folds", "3"]
    assert main(["train", str(tmp_path / "rows.tsv"), "-o", str(tmp_path / "out"), *flags]) == 0
    printed, said = capsys.readouterr()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["folds.json"]
    found = json.loads((tmp_path / "out" / "folds.json").read_text(encoding="utf-8"))
    assert set(found["summary"]) == {"baseline_tfidf", "encoder", "ngrams", "hybrid"}
    assert sum(found["dev_rows"]) == found["rows"] == 90
    for figures in found["summary"].values():
        values = figures["accuracy"]["values"]
        assert len(values) == 3
        assert figures["accuracy"]["mean"] == pytest.approx(np.mean(values))
        assert figures["accuracy"]["sd"] == pytest.approx(np.std(values, ddof=1))
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["TF-IDF", "encoder", "ngrams", "hybrid"]
    hybrid = found["summary"]["hybrid"]["accuracy"]
    assert f"{hybrid['mean']:.4f} ± {hybrid['sd']:.4f}" in lines[4]
    assert said.count("fold ") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"rows.tsv", "out"}
