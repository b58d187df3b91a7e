"""The demo report -> one HTML page, in the style of ``jirgee.page``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from jirgee.page import document, facts, figure, tiles

from . import charts


@dataclass(frozen=True)
class Form:
    """One form of the classifier. ``size``: bytes on disk, None where it is kept nowhere. ``rate``: tweets/s."""

    name: str
    accuracy: float
    macro_f1: float
    size: int | None
    rate: float


@dataclass(frozen=True)
class Speed:
    """Medians in tweets per second. ``naive``, ``bundle``: the same ``texts`` distinct tweets, in turn; ``file``: the
    bundle on the whole file, repeats included. ``width``: tokens that the naive way pads every tweet to."""

    naive: float
    bundle: float
    file: float
    texts: int
    width: int
    rounds: int

    @property
    def ratio(self) -> float:
        return self.bundle / self.naive


@dataclass(frozen=True)
class Scored:
    """A row of the scored file."""

    text: str
    label: str
    score: float


@dataclass(frozen=True)
class Report:
    """All that the page says. ``forms``: TF-IDF, checkpoint, bundle. ``confusion``: of the bundle, rows are the truth.
    ``foot``: machine, versions, date and the like, name -> value."""

    classes: Sequence[str]
    forms: tuple[Form, Form, Form]
    confusion: Sequence[Sequence[int]]
    scored: Sequence[Scored]
    speed: Speed
    train_rows: int
    dev_rows: int
    foot: dict[str, str]


def render(report: Report) -> str:
    """The whole page."""
    baseline, _, bundle = report.forms
    rows, distinct = len(report.scored), len({row.text for row in report.scored})
    counts = Counter(row.label for row in report.scored)
    speed = report.speed
    names = [escape(name) for name in report.classes]
    kinds = f"{', '.join(names[:-1])} or {names[-1]}"
    shown = [
        (f"{bundle.accuracy:.1%}", f"of {report.dev_rows} held-out tweets right; TF-IDF {baseline.accuracy:.1%}"),
        (f"{speed.ratio:.1f}×", "as many tweets per second as padded PyTorch, on the same tweets"),
        (f"{(bundle.size or 0) / 1e6:.0f} MB", f"on disk; checkpoint {(report.forms[1].size or 0) / 1e6:.0f}\u00a0MB"),
        (f"{rows:,}", f"tweets scored at {rate(speed.file)} a second"),
    ]
    summary = (
        f"A BERT was fine-tuned on {report.train_rows:,} labelled tweets, exported to a "
        f"{(bundle.size or 0) / 1e6:.0f} MB ONNX bundle that runs without PyTorch, and used to label {rows:,} tweets "
        f"as {kinds}."
    )
    charts_of_scores = [
        figure(
            "What are they?",
            charts.shares([(name, counts[name]) for name in report.classes]),
            f"Share of each predicted class in {rows:,} rows, {distinct:,} of them distinct.",
        ),
        figure(
            "How sure is the model?",
            charts.confidence(np.array([row.score for row in report.scored]), len(report.classes)),
            "Right: sure. Left: a coin toss.",
        ),
        figure(
            "Where is it wrong?",
            charts.confusion(report.confusion, report.classes),
            f"{escape(bundle.name)} on {report.dev_rows} held-out tweets; the numbers off the diagonal are mistakes.",
        ),
    ]
    quality = figure(
        "Held-out accuracy and macro F1",
        charts.quality(
            [form.name.replace(" (", "\n(") for form in report.forms],
            [form.accuracy for form in report.forms],
            [form.macro_f1 for form in report.forms],
        ),
        f"Of {report.dev_rows} held-out tweets, which limits the precision: ±{_margin(report):.1f} points (95\u00a0%). "
        "The best epoch of the BERT was chosen on the same tweets, which flatters it a little; TF-IDF chose nothing.",
    )
    speeds = figure(
        "Tweets per second",
        charts.rates(
            [
                (f"PyTorch, padded\nto {speed.width} tokens", speed.naive, rate(speed.naive)),
                ("bundle,\nsame tweets", speed.bundle, rate(speed.bundle)),
                ("bundle, whole file\nwith repeats", speed.file, rate(speed.file)),
            ]
        ),
        f"Medians of {speed.rounds} rounds, taken in turn in one process, tokenising included. Compared on "
        f"{speed.texts} distinct tweets; the naive way takes them unsorted in batches of 8, as mn-tweet-bert did.",
    )
    ranked = sorted({row.text: row for row in report.scored}.values(), key=lambda row: -row.score)
    least = ranked[::-1][: min(10, len(ranked) // 2)]
    body = f"""<h1>жиргээ: from labelled tweets to a scored file</h1>
<p>{summary}</p>
{tiles(shown)}
<h2>The tweets</h2>
<div class="cards">{"".join(charts_of_scores)}</div>
<h2>The model</h2>
<p class="note">{_verdict(report)}</p>
<div class="card">{_forms(report.forms)}</div>
<div class="cards">{quality}{speeds}</div>
<h2>The ten surest</h2>
{_tweets(ranked[:10])}
<h2>The ten least sure</h2>
{_tweets(least)}
<footer>
{facts(report.foot)}
</footer>"""
    return document("jirgee: demo report", body)


def _verdict(report: Report) -> str:
    """Differences counted in tweets: on a few hundred rows, points pretend to more than there is."""
    baseline, checkpoint, bundle = (round(form.accuracy * report.dev_rows) for form in report.forms)
    return (
        f"Of {report.dev_rows} held-out tweets the bundle gets {_more(bundle - baseline)} right than TF-IDF of "
        f"character n-grams with logistic regression, and {_more(bundle - checkpoint)} than the PyTorch checkpoint it "
        "was made from. TF-IDF is there as the bar of quality that an encoder has to clear."
    )


def _more(tweets: int) -> str:
    return "no more and no fewer" if tweets == 0 else f"{abs(tweets)} {'more' if tweets > 0 else 'fewer'}"


def _margin(report: Report) -> float:
    """Half of Wilson's 95 % interval of the bundle's accuracy, in points (Wilson 1927)."""
    accuracy, n, z = report.forms[-1].accuracy, report.dev_rows, 1.96
    return 100 * z / (1 + z * z / n) * (accuracy * (1 - accuracy) / n + z * z / (4 * n * n)) ** 0.5


def rate(value: float) -> str:
    """Tweets per second for people: a decimal only where it matters."""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _forms(forms: Sequence[Form]) -> str:
    rows = "".join(
        f'<tr><td>{escape(form.name)}</td><td class="number">{form.accuracy:.4f}</td>'
        f'<td class="number">{form.macro_f1:.4f}</td>'
        f'<td class="number">{"–" if form.size is None else f"{form.size / 1e6:.1f}"}</td>'
        f'<td class="number">{rate(form.rate)}</td></tr>'
        for form in forms
    )
    head = "".join(f'<th class="number">{name}</th>' for name in ("accuracy", "macro F1", "size, MB", "tweets/s"))
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _tweets(rows: Sequence[Scored]) -> str:
    body = "".join(
        f'<tr><td class="number">{row.score:.3f}</td><td class="wide">{escape(row.label)}</td>'
        f'<td class="tweet" dir="auto">{escape(row.text)}<small>{escape(row.label)}</small></td></tr>'
        for row in rows
    )
    head = '<tr><th class="number">score</th><th class="wide">label</th><th>tweet</th></tr>'
    return f'<div class="card"><table class="tweets"><thead>{head}</thead><tbody>{body}</tbody></table></div>'
