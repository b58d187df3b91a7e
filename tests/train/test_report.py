"""The honest report of a checkpoint: its figures are right, its page is safe, and it says when it is not better."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jirgee.labelled import Labelled
from jirgee.metrics import evaluate
from jirgee.tokens import Encoded, TokenizerSpec
from jirgee_train.cli import TRAIN

if TRAIN.missing():
    pytest.skip("needs the extra [train]", allow_module_level=True)

from jirgee_train import card, findings, slices
from jirgee_train.data import Dataset, read_dataset

HOSTILE = "<script>alert(1)</script> | `x` $y$ \ud83d"


@pytest.fixture(scope="module")
def report(trained):
    return json.loads((trained.out / "report.json").read_text(encoding="utf-8"))


def test_a_checkpoint_carries_its_report(trained, report):
    assert {"report.json", "README.md"} <= {path.name for path in trained.out.iterdir()}
    assert report["figures"]["accuracy"] == trained.results["accuracy"]
    assert report["figures"]["confusion"] == trained.results["confusion"]
    tfidf, encoder = (report["parts"][name]["accuracy"] for name in ("TF-IDF + logistic regression", "encoder"))
    assert tfidf == trained.results["baseline_tfidf"]["accuracy"]
    assert encoder == trained.results["encoder"]["accuracy"]
    assert report["gain_over_tfidf"]["accuracy"] == pytest.approx(report["figures"]["accuracy"] - tfidf)
    calibration = report["calibration"]
    assert calibration["ece_before"] == trained.results["ece_uncalibrated"]
    assert calibration["ece_after"] == trained.results["ece"]
    assert report["recipe"]["epochs"] == 10
    assert [entry["epoch"] for entry in report["history"] if "eval_loss" in entry] == list(range(1, 11))


def test_slices_and_bins_hold_every_dev_row_once(report):
    for parts in report["slices"].values():
        assert sum(part["n"] for part in parts.values()) == 180
        hits = sum(part["n"] * part["accuracy"] for part in parts.values())
        assert hits / 180 == pytest.approx(report["figures"]["accuracy"])
    for bins in (report["calibration"]["before"], report["calibration"]["after"]):
        assert sum(part["n"] for part in bins) == 180
    gap = sum(part["n"] * abs(part["confidence"] - part["accuracy"]) for part in report["calibration"]["after"]) / 180
    assert gap == pytest.approx(report["calibration"]["ece_after"], abs=1e-6)


def test_mistakes_are_mistakes_the_surest_first(report, samples):
    truth = dict(line.split("\t") for line in (samples / "dev.tsv").read_text(encoding="utf-8").splitlines())
    found = report["mistakes"]
    assert 0 < len(found) <= 20
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    for one in found:
        assert truth[one["text"]] == one["label"] != one["predicted"]
    lines = (samples / "dev.tsv").read_text(encoding="utf-8").splitlines()
    name, line = found[0]["where"].split(":")
    assert name == "dev.tsv"
    assert lines[int(line) - 1].startswith(found[0]["text"])


def test_the_interval_is_that_of_a_mean_and_knows_what_belongs_together():
    values = np.array([1.0] * 70 + [0.0] * 30)
    low, high = findings.interval(values, np.arange(100))
    assert (low, high) == (pytest.approx(0.7 - 1.96 * 0.0458, abs=0.012), pytest.approx(0.7 + 1.96 * 0.0458, abs=0.012))
    wide_low, wide_high = findings.interval(np.repeat(values[::10], 10), np.arange(100) // 10)
    assert wide_high - wide_low > 2 * (high - low)
    low, high = findings.wilson(3, 3)
    assert (low, high) == (pytest.approx(0.438, abs=0.001), 1.0)


def test_slices_by_script_emoji_length_and_unknown_pieces():
    texts = ["Сайн уу", "Sain uu", "Сайн uu bn", "😂", "ॐ नमः"]
    assert slices.latin_share(texts).tolist() == [0, 1, 0.5, 0, 0]
    spec = TokenizerSpec("sentencepiece", "m", unk_id=9, pad_id=0, prefix=(1,), suffix=(2,))
    encoded = Encoded(
        np.array([1, 9, 4, 2, 1, 4, 2, 1, 9, 2, 1, 2, 1, *[4] * 20, 2]),
        np.array([0, 4, 7, 10, 12, 34]),
        np.array([False, False, False, False, True]),
    )
    assert slices.unknown_share(encoded, spec).tolist() == [0.5, 0, 1, 0, 0]
    found = slices.cut(texts, encoded, spec)
    assert {
        name: {part: rows.tolist().count(True) for part, rows in parts.items()} for name, parts in found.items()
    } == {
        "length": {"1–16 tokens": 4, "17–32 tokens": 1},
        "cut at the limit": {"whole": 4, "cut": 1},
        "emoji": {"without": 4, "with": 1},
        "Latin script": {"no Latin letter": 3, "up to half of the letters": 1, "more than half": 1},
        "unknown pieces": {"none": 3, "more": 2},
    }


@pytest.mark.parametrize(
    ("gain", "interval", "words"),
    [
        (0.05, [0.01, 0.09], "It beats TF-IDF with logistic regression by 5.0 points"),
        (-0.05, [-0.09, -0.01], "It is 5.0 points worse than TF-IDF"),
        (0.01, [-0.02, 0.04], "within chance"),
    ],
)
def test_the_verdict_does_not_claim_what_the_rows_do_not_show(report, gain, interval, words):
    assert words in card.verdict(report | {"gain_over_tfidf": {"accuracy": gain, "interval": interval}})


def hostile(report):
    """The report with names and texts that would break a careless page."""
    names = ["<b>a|b", HOSTILE]
    mistake = {"text": HOSTILE, "label": names[0], "predicted": names[1], "score": 0.9, "where": "x:1"}
    figures = report["figures"] | {"per_class": dict(zip(names, report["figures"]["per_class"].values(), strict=True))}
    labels = {part: dict(zip(names, (3, 4), strict=True)) for part in ("train", "dev")}
    return report | {"classes": names, "mistakes": [mistake] * 3, "figures": figures, "labels": labels}


def test_the_page_asks_nobody_runs_nothing_and_shows_hostile_texts(report, tmp_path):
    pytest.importorskip("matplotlib")
    findings.write(hostile(report), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert page.count("<svg") == 3
    assert not re.findall(r"<(?:script|img|iframe|object|form|b>a)", page)
    assert not re.findall(r'(?:href|src)="(?!#|data:)', page)
    assert "&lt;script&gt;alert(1)" in page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "a\\|b" in line]
    assert len(rows) == 1


def test_the_card_quotes_the_figures_and_no_text(trained, report):
    text = (trained.out / "README.md").read_text(encoding="utf-8")
    assert f"Accuracy {report['figures']['accuracy']:.4f}" in text
    assert "epochs = 10" in text
    assert not [one for one in report["mistakes"] if one["text"] in text]


def test_without_matplotlib_there_is_json_and_a_card(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.import_module", _absent)
    findings.write(report, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "README.md"}


def _absent(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_hygiene_of_the_data_is_in_the_report(tmp_path):
    rows = Labelled(["нэг", "хоёр"], ["a", "b"], [(Path("d.tsv"), 2), (Path("d.tsv"), 3)])
    data = Dataset(rows, rows, ["a", "b"])
    probs = np.array([[0.9, 0.1], [0.8, 0.2]])
    judged = findings.Judged(probs, probs, None, probs[:, ::-1])
    found = findings.mistakes(judged.final, data)
    assert [(one["text"], one["predicted"], one["where"]) for one in found] == [("хоёр", "a", "d.tsv:3")]
    assert evaluate(probs, rows.indices(data.classes), data.classes)["accuracy"] == 0.5
    assert replace(data).hygiene.to_json()["leaked"] == 0


def test_the_samples_have_no_leak(samples):
    assert read_dataset([samples], 0.2, 1).hygiene.leaked == 0
