"""Repeats, groups and leaks: what a split keeps together, what is dropped from train, and what is said of it."""

import random
from pathlib import Path

import numpy as np
import pytest

from jirgee.errors import InputError
from jirgee.labelled import Labelled, read_labelled
from jirgee.tokens import Encoded
from jirgee_train import hygiene
from jirgee_train.data import GROUP_COLUMN, hold_out, read_dataset
from jirgee_train.repeats import SIMILAR, group_rows, near_pairs, normalise

from .conftest import write_tsv

NEWS = "Монголбанк өнөөдөр валютын албан ханшийг зарлаж, доллар {} төгрөгтэй тэнцлээ"
OTHER = "Хүүхдийн паркт маргааш орой наадмын нээлтийн тоглолт болно, бүгдээрээ ирээрэй"


def labelled(texts, labels=None, groups=()):
    where = [(Path("rows.tsv"), i + 2) for i in range(len(texts))]
    return Labelled(list(texts), list(labels or ["a"] * len(texts)), where, list(groups))


def units(texts, groups=()):
    return group_rows(labelled(texts, groups=groups)).units.tolist()


@pytest.mark.parametrize(
    "repeat",
    [
        "RT @user_1: Сайн байна уу, найзууд аа!",
        "rt @a RT @b: сайн  байна уу найзууд аа https://t.co/xYz1",
        "САЙН БАЙНА УУ — НАЙЗУУД АА... 😂😂",
        "“Сайн байна уу”, найзууд аа www.example.mn/1",
        "Сайн баи\u0306на уу, найзууд аа",
    ],
)
def test_what_a_repost_changes_does_not_count(repeat):
    assert normalise(repeat) == normalise("Сайн байна уу, найзууд аа!")


def test_a_text_of_signs_alone_keeps_them():
    assert normalise("😂 😂") == "😂 😂"
    assert units(["😂", "👍", "😂", "", " "]) == [0, 1, 0, 3, 3]


def test_near_duplicates_and_cut_retweets_are_one_group_and_others_are_not():
    cut = "RT @news: " + NEWS.format(3450)[:45] + "…"
    texts = [NEWS.format(3450), OTHER, "Сонин: " + NEWS.format(3462), cut, "Огт өөр нэг богино мэдээ байна шүү дээ"]
    assert units(texts) == [0, 1, 0, 0, 4]


def test_short_texts_must_be_equal():
    assert units(["текст 1", "текст 10", "ТЕКСТ 1!"]) == [0, 1, 0]


def test_a_group_links_rows_and_through_them_their_repeats():
    texts = [OTHER, "нэг", "хоёр", OTHER + "!", "гурав", "дөрөв"]
    rows = labelled(texts, groups=["", "бат", "бат", "дорж", "дорж", ""])
    groups = group_rows(rows)
    assert groups.units.tolist() == [0, 1, 1, 0, 0, 5]
    assert groups.texts.tolist() == [0, 1, 2, 0, 4, 5]


def jaccard(a, b):
    a, b = ({text[i : i + 4] for i in range(len(text) - 3)} for text in (a, b))
    return len(a & b) / len(a | b)


def test_near_pairs_are_those_of_the_definition(sample_texts):
    rng = random.Random(0)
    texts = {normalise(text) for text in sample_texts[:150]}
    for text in sorted(texts)[:60]:  # versions with some words replaced
        words = text.split()
        texts.add(" ".join(word if rng.random() < 0.85 else rng.choice(words) for word in words))
    texts = [text for text in sorted(texts) if len({text[i : i + 4] for i in range(len(text) - 3)}) >= 20]
    pairs = [(a, b) for a in range(len(texts)) for b in range(a)]
    alike = {frozenset(pair): jaccard(texts[pair[0]], texts[pair[1]]) for pair in pairs}
    found = {frozenset(pair) for pair in near_pairs(texts).tolist()}
    assert found <= {pair for pair, value in alike.items() if value >= SIMILAR}
    assert found >= {pair for pair, value in alike.items() if value >= SIMILAR + 0.05}
    assert len(found) > 20


def test_thousands_of_texts_from_one_template_are_one_group():
    rng = random.Random(1)
    texts = [NEWS.format(rng.randrange(10_000)) for _ in range(5_000)]
    assert set(units([OTHER, *texts])) == {0, 1}


@pytest.mark.parametrize("texts", [[], [""], ["нэг"], ["", "😂", "\ud83d", "a" * 5000, "a" * 5001]])
def test_odd_texts_are_grouped_without_complaint(texts):
    assert len(units(texts)) == len(texts)


def test_repeats_never_straddle_a_split_of_ours():
    rng = random.Random(2)
    words = " ".join([NEWS, OTHER]).split()
    originals = [" ".join(rng.sample(words, 12)) for _ in range(60)]
    texts = [form.format(text) for text in originals for form in ("{}", "RT @x: {}", "{} 😂 https://t.co/a")]
    rows = labelled(texts, [rng.choice("ab") for _ in texts])
    for seed in range(5):
        in_dev = hold_out(rows, group_rows(rows), 0.3, seed).reshape(60, 3)
        assert (in_dev.all(axis=1) | ~in_dev.any(axis=1)).all()
        assert 40 <= in_dev.sum() <= 66


def test_a_group_column_is_honoured_in_a_split(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [f"{author} {i} дугаар мөр,{'ab'[i % 2]},{author}\n" for author in "нхгдтзндаё" for i in range(6)]
    path.write_text("text,label,group\n" + "".join(rows), encoding="utf-8")
    data = read_dataset([path], 0.3, 1)
    authors = [{text.split()[0] for text in part.texts} for part in (data.train, data.dev)]
    assert not authors[0] & authors[1]
    assert len(authors[1]) >= 2
    assert data.hygiene.groups == len(set("нхгдтзндаё"))
    assert data.dev_units is not None
    assert len(set(data.dev_units.tolist())) == len(authors[1])


def given_split(tmp_path, **options):
    write_tsv(tmp_path / "train.tsv", [(NEWS.format(1), "a"), (OTHER, "b"), (OTHER, "a"), ("нэг", "a"), ("хоёр", "b")])
    write_tsv(tmp_path / "dev.tsv", [("RT @x: " + NEWS.format(2), "a"), ("гурав", "b"), ("Гурав!", "b")])
    return read_dataset([tmp_path], 0.2, 1, **options)


def test_train_rows_that_repeat_a_dev_row_are_dropped_and_counted(tmp_path):
    data = given_split(tmp_path)
    assert data.train.texts == [OTHER, OTHER, "нэг", "хоёр"]
    assert len(data.dev) == 3
    found = data.hygiene
    assert (found.leaked, found.exposed, found.dropped) == (1, 1, 1)
    assert (found.train_repeats, found.dev_repeats, found.conflicts) == (1, 1, 2)


def test_they_can_be_kept(tmp_path):
    data = given_split(tmp_path, keep_repeats=True)
    assert len(data.train) == 5
    assert (data.hygiene.leaked, data.hygiene.dropped) == (1, 0)
    said = hygiene.describe(data.hygiene, {"p50": 9.0, "p95": 20.0, "longest": 30.0, "cut": 0.125}, 128)
    assert "1 train rows (nearly) repeat 1 dev rows or share their group; kept" in said
    assert "12.5% of the train rows are cut at 128" in said


def test_a_label_that_only_repeats_dev_cannot_be_trained(tmp_path):
    write_tsv(tmp_path / "train.tsv", [("нэг", "a"), ("хоёр", "b")])
    write_tsv(tmp_path / "dev.tsv", [("нэг!", "a"), ("гурав", "b")])
    with pytest.raises(
        InputError, match=r"train\.tsv: every row with the label 'a' repeats a dev row; .*--keep-repeats"
    ):
        read_dataset([tmp_path], 0.2, 1)


def test_groups_survive_reading_joining_and_taking(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "нэг", "label": "a", "group": 7}\n{"text": "хоёр", "label": "b"}\n', encoding="utf-8")
    rows = read_labelled(path, group_column=GROUP_COLUMN)
    assert rows.groups == ["7", ""]
    assert read_labelled(path).groups == []
    joined = labelled(["гурав"]) + rows
    assert joined.groups == ["", "7", ""]
    assert joined.take([1, 0]).groups == ["7", ""]
    path.write_text('{"text": "нэг", "label": "a", "group": [1]}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl:1: the group is \[1\]; it must be a name"):
        read_labelled(path, group_column=GROUP_COLUMN)


def test_lengths_are_of_the_tokens_that_the_model_sees():
    encoded = Encoded(np.zeros(60, np.int32), np.array([0, 10, 20, 40, 60]), np.array([False, False, False, True]))
    assert hygiene.lengths(encoded) == {"p50": 15.0, "p95": 20.0, "longest": 20.0, "cut": 0.25}
