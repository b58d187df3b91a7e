"""``python -m benchmarks.demo`` on the tiny model: what the page and the terminal say is true, and the page is safe."""

from __future__ import annotations

import html
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

import jirgee
from jirgee.checkpoint import read_settings
from jirgee.job import score_files
from jirgee.labelled import read_labelled
from jirgee.metrics import evaluate
from jirgee.rows import Sink

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ["<script>alert('1')</script> & <img src=//example.mn/a.png>", "$\\frac{1}$ </style></svg>", "өө ҮҮ ёё"]


class Inputs(NamedTuple):
    checkpoint: Path
    bundle: Path
    data: Path
    scored: Path
    texts: Path

    def arguments(self, page: Path) -> list[str]:
        pairs = [(f"--{name}", str(path)) for name, path in self._asdict().items()]
        return [*chain.from_iterable(pairs), "-o", str(page)]


class Run(NamedTuple):
    page: str
    terminal: str


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        from benchmarks import demo

        return demo


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, samples, sample_texts, tiny_checkpoint, tiny_bundle) -> Inputs:
    """80 train and 20 dev rows of the samples; 30 tweets, each twice, and the hostile ones."""
    root = tmp_path_factory.mktemp("demo")
    data = root / "data"
    data.mkdir()
    for name, rows in (("train", 80), ("dev", 20)):
        lines = (samples / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[: rows + 1]
        (data / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with Sink(root / "tweets.csv") as sink:
        for text in sample_texts[:30] * 2 + HOSTILE:
            sink.write({"text": text})
    with jirgee.Scorer.load(tiny_bundle) as scorer, Sink(root / "scored.csv") as sink:
        score_files(scorer, [root / "tweets.csv"], sink)
    return Inputs(tiny_checkpoint, tiny_bundle, data, root / "scored.csv", root / "tweets.csv")


@pytest.fixture(scope="module")
def run(demo, inputs, tmp_path_factory) -> Run:
    import contextlib
    import io

    page = tmp_path_factory.mktemp("report") / "new" / "report.html"
    terminal = io.StringIO()
    with contextlib.redirect_stdout(terminal):
        assert demo.main(inputs.arguments(page)) == 0
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    return Run(page.read_text(encoding="utf-8"), terminal.getvalue())


def test_terminal_says_what_evaluation_says(run, inputs):
    dev = read_labelled(inputs.data / "dev.tsv")
    with jirgee.Scorer.load(inputs.bundle) as scorer:
        figures = evaluate(scorer.score(dev.texts).probs, dev.indices(scorer.bundle.labels), scorer.bundle.labels)
    lines = run.terminal.splitlines()
    assert [re.split(r"  +", line.strip())[0] for line in lines[1:4]] == [
        "TF-IDF",
        "checkpoint (PyTorch)",
        "bundle (fp32)",
    ]
    bundle = lines[3].split()[2:]
    assert bundle[:2] == [f"{figures['accuracy']:.4f}", f"{figures['macro_f1']:.4f}"]
    size = sum(path.stat().st_size for path in inputs.bundle.iterdir())
    assert bundle[2] == f"{size / 1e6:.1f}"
    assert len({len(line) for line in lines[:4]}) == 1, "the columns of the table are not aligned"
    assert len(lines) == 5
    assert re.search(r"bundle [\d.]+x PyTorch padded to 64 tokens \(same 33 tweets", lines[4])
    assert "report.html" in lines[4]
    assert "scored.csv" in lines[4]


class _Outline(HTMLParser):
    """Tags, ids and addresses of a page; fails on tags that do not nest."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "use"})

    def __init__(self, page: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self._note(attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self._note(attrs)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def _note(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids[value] += 1
            if name in ("href", "src", "xlink:href", "action", "data"):
                self.addresses.append(value)


def test_page_asks_nobody_and_runs_nothing(run):
    outline = _Outline(run.page)
    assert outline.tags["svg"] == 5
    assert not outline.tags.keys() & {"script", "img", "iframe", "object", "embed", "form", "base"}
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", run.page))
    assert "@import" not in run.page
    assert max(outline.ids.values(), default=1) == 1, "two charts share an id"
    assert "default-src 'none'" in run.page


def test_page_lists_the_extremes_in_order_each_tweet_once(run):
    tables = re.findall(r'<table class="tweets">.*?</table>', run.page, re.DOTALL)
    scores = [[float(score) for score in re.findall(r'<td class="number">([\d.]+)</td>', table)] for table in tables]
    surest, least = scores
    assert len(surest) == len(least) == 10
    assert surest == sorted(surest, reverse=True)
    assert least == sorted(least)
    assert min(surest) >= max(least)
    for table in tables:
        shown = re.findall(r'<td class="tweet" dir="auto">(.*?)<small>', table, re.DOTALL)
        assert len(set(shown)) == 10, "a repeated tweet is listed twice"


def test_hostile_tweets_and_class_names_are_shown_not_obeyed(demo):
    from benchmarks.page import Form, Report, Scored, Speed, render

    classes = ["<b>&$x_1$", "сэтгүүлч"]
    form = Form("<i>form</i>", 0.5, 0.5, 1_000_000, 12.0)
    scored = [Scored(text, classes[0], 0.9 - 0.1 * place) for place, text in enumerate(HOSTILE)]
    speed = Speed(2.0, 20.0, 40.0, texts=3, width=128, rounds=3)
    page = render(
        Report(classes, (form, form, form), [[1, 1], [1, 1]], scored, speed, 9, 4, {"<u>name</u>": "<s>value</s>"})
    )
    assert "10.0×" in page
    outline = _Outline(page)
    assert not outline.tags.keys() & {"script", "img", "i", "u", "s"}
    cells = re.findall(r'<td class="tweet" dir="auto">(.*?)<small>', page, re.DOTALL)
    assert [html.unescape(cell) for cell in cells[:3]] == HOSTILE


def test_naive_way_computes_the_same_scores(demo, inputs, texts):
    from jirgee_train.fit import predict
    from jirgee_train.model import load_classifier

    settings = read_settings(inputs.checkpoint)
    model = load_classifier(inputs.checkpoint, ["comedian", "commentator"]).eval()
    naive = demo.naive_scorer(model, settings, inputs.checkpoint, 64)(texts)
    expected = demo.softmax(predict(model, settings, inputs.checkpoint, texts))
    assert np.abs(naive - expected).max() < 1e-4


def test_charts_are_sound_svg_with_real_text_and_page_colours(demo):
    from benchmarks import charts

    name = "Шог <b>&$x_1$"
    drawn = [
        charts.shares([(name, 3), ("сэтгүүлч", 0)]),
        charts.confidence(np.array([0.34, 0.5, 1.0]), 3),
        charts.confusion([[3, 0], [0, 0]], [name, "сэтгүүлч"]),
        charts.quality([name], [0.5], [0.25]),
        charts.rates([(name, 0.5, "0.5"), ("bundle", 20.0, "20")]),
    ]
    for svg in drawn:
        root = ET.fromstring(svg)
        assert root.get("viewBox")
        assert root.get("width") is None
        assert not re.findall(r"#0[0-9]0[0-9]0[0-9]", svg), "a stand-in colour was left"
        assert "var(--" in svg
    shown = ["".join(ET.fromstring(svg).itertext()) for svg in drawn]
    for index in (0, 2, 3, 4):
        assert name in shown[index]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("data", "holds no dev.tsv"),
        ("scored", "tweets.csv:2: not a scored row"),
        ("label", "has the label 'poet'"),
        ("checkpoint", "not its checkpoint"),
    ],
)
def test_inputs_that_do_not_fit_are_one_clear_line(demo, inputs, tmp_path, capsys, broken, message):
    if broken == "data":
        (tmp_path / "data").mkdir()
        shutil.copy(inputs.data / "train.tsv", tmp_path / "data")
        given = inputs._replace(data=tmp_path / "data")
    elif broken == "scored":
        given = inputs._replace(scored=inputs.texts)
    elif broken == "label":
        (tmp_path / "scored.csv").write_text("text,label,score\nx,poet,0.9\n", encoding="utf-8")
        given = inputs._replace(scored=tmp_path / "scored.csv")
    else:
        shutil.copytree(inputs.checkpoint, tmp_path / "other")
        config = tmp_path / "other" / "config.json"
        config.write_text(config.read_text().replace("comedian", "poet"))
        given = inputs._replace(checkpoint=tmp_path / "other")
    assert demo.main(given.arguments(tmp_path / "report.html")) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "report.html").exists()
