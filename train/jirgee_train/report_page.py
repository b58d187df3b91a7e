"""``report.json`` -> ``report.html``: what a reader must know before trusting the checkpoint, on one page."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from jirgee.page import document, facts, figure, tiles

from . import charts
from .card import verdict

Rows = list[list[str]]


def render(report: dict[str, Any]) -> str:
    """The whole page. Raises MissingPackage without matplotlib."""
    figures, calibration = report["figures"], report["calibration"]
    train, dev = (sum(report["labels"][name].values()) for name in ("train", "dev"))
    baseline = next(iter(report["parts"].values()))
    low, high = figures["accuracy_interval"]
    kinds = ", ".join(report["classes"])
    summary = (
        f"A BERT ({report['recipe']['base']}) fine-tuned on {train:,} labelled texts to tell apart: {kinds}. All "
        f"figures are of {dev:,} dev rows that no weight was fitted on; the best epoch was chosen by them, which "
        "flatters the encoder a little."
    )
    shown = [
        (f"{figures['accuracy']:.1%}", f"accuracy; 95 % interval {low:.1%} to {high:.1%}"),
        (f"{baseline['accuracy']:.1%}", "TF-IDF + logistic regression on the same split"),
        (f"{figures['macro_f1']:.3f}", "macro F1"),
        (f"{calibration['ece_after']:.3f}", f"calibration error; {calibration['ece_before']:.3f} before calibration"),
    ]
    body = f"""<h1>How good is this classifier?</h1>
<p>{escape(summary)}</p>
{tiles(shown)}
<p>{escape(verdict(report))}</p>
<h2>Beside the baseline</h2>
{_card(_parts(report))}
<h2>By class</h2>
<div class="cards">{_confusion(report)}<div class="card"><h3>Precision, recall, F1</h3>{_per_class(report)}</div></div>
<h2>Training and calibration</h2>
<div class="cards">{_curves(report)}{_reliability(report)}</div>
<h2>Where it is good and where it is not</h2>
<p class="note">Dev rows cut by properties of their text. A wide interval means few rows, not a bad model.</p>
{_card(_slices(report))}
<h2>The surest mistakes</h2>
<p class="note">Wrong with the most confidence. Some will be wrong labels: worth reading before more training.</p>
{_mistakes(report)}
<h2>The data</h2>
{_card(_labels(report))}
{_card(facts(_hygiene(report)))}
<footer>{facts(_foot(report))}</footer>"""
    return document("jirgee: how good is this classifier?", body)


def _card(inner: str) -> str:
    return f'<div class="card" style="overflow-x:auto;margin:1rem 0">{inner}</div>'


def _table(head: list[str], rows: Rows) -> str:
    """The first column is text, the others are numbers. Cells are escaped here."""
    top = "".join(f"<th{'' if at == 0 else ' class=number'}>{escape(name)}</th>" for at, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f"<td{'' if at == 0 else ' class=number'}>{escape(c)}</td>" for at, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _between(pair: list[float]) -> str:
    return f"{pair[0]:.3f}–{pair[1]:.3f}"


def _parts(report: dict[str, Any]) -> str:
    rows = [
        [name, f"{part['accuracy']:.4f}", _between(part["accuracy_interval"]), f"{part['macro_f1']:.4f}"]
        for name, part in report["parts"].items()
    ]
    gain, (low, high) = report["gain_over_tfidf"]["accuracy"], report["gain_over_tfidf"]["interval"]
    rows.append(["gain over TF-IDF", f"{gain:+.4f}", f"{low:+.3f} to {high:+.3f}", ""])
    return _table(["", "accuracy", "95 % interval", "macro F1"], rows)


def _per_class(report: dict[str, Any]) -> str:
    rows = [
        [name, *(f"{one[key]:.3f}" for key in ("precision", "recall", "f1")), f"{one['support']:,}"]
        for name, one in report["figures"]["per_class"].items()
    ]
    return _table(["class", "precision", "recall", "F1", "rows"], rows)


def _confusion(report: dict[str, Any]) -> str:
    drawn = charts.confusion(report["figures"]["confusion"], report["classes"])
    return figure("Confusion", drawn, "Dev rows; off the diagonal are the mistakes.")


def _curves(report: dict[str, Any]) -> str:
    history = report["history"]
    train = [(entry["epoch"], entry["loss"]) for entry in history if "loss" in entry]
    dev = [(entry["epoch"], entry["eval_loss"], entry["eval_accuracy"]) for entry in history if "eval_loss" in entry]
    drawn = charts.learning_curves(train, dev)
    return figure("Learning curves", drawn, "A dev loss that rises while the train loss falls is overfitting.")


def _reliability(report: dict[str, Any]) -> str:
    calibration = report["calibration"]
    drawn = charts.reliability(calibration["before"], calibration["after"], len(report["classes"]))
    return figure(
        "Can its probabilities be trusted?",
        drawn,
        f"On the line they say what they mean. Calibration error {calibration['ece_before']:.3f} before, "
        f"{calibration['ece_after']:.3f} after temperature {calibration['temperature']:.2f} (cross-fitted).",
    )


def _slices(report: dict[str, Any]) -> str:
    rows = []
    for name, parts in report["slices"].items():
        if len(parts) < 2:
            continue  # all rows: the figures above
        rows.append([name, "", "", "", ""])
        rows += [
            [
                f"· {part}",
                f"{one['n']:,}",
                f"{one['accuracy']:.3f}",
                _between(one["accuracy_interval"]),
                f"{one['tfidf_accuracy']:.3f}",
            ]
            for part, one in parts.items()
        ]
    return _table(["slice", "rows", "accuracy", "95 % interval", "TF-IDF"], rows)


def _mistakes(report: dict[str, Any]) -> str:
    body = "".join(
        f'<tr><td class="number">{one["score"]:.3f}</td><td class="wide">{escape(one["predicted"])}</td>'
        f'<td class="wide">{escape(one["label"])}</td><td class="tweet" dir="auto">{escape(one["text"])}'
        f"<small>{escape(one['predicted'])}, labelled {escape(one['label'])}</small></td></tr>"
        for one in report["mistakes"]
    )
    head = '<th class="number">score</th><th class="wide">predicted</th><th class="wide">label</th><th>text</th>'
    return f'<div class="card"><table class="tweets"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _labels(report: dict[str, Any]) -> str:
    train, dev = report["labels"]["train"], report["labels"]["dev"]
    rows = [[name, f"{train.get(name, 0):,}", f"{dev.get(name, 0):,}"] for name in report["classes"]]
    return _table(["label", "train rows", "dev rows"], rows)


def _hygiene(report: dict[str, Any]) -> dict[str, str]:
    found, tokens = report["hygiene"], report["tokens"]
    kept = "dropped" if found["dropped"] else "kept, which flatters the figures"
    return {
        "repeats": f"{found['train_repeats']:,} train and {found['dev_repeats']:,} dev rows (nearly) repeat another",
        "leakage": f"{found['leaked']:,} train rows repeated {found['exposed']:,} dev rows or shared their group"
        + (f": {kept}" if found["leaked"] else ""),
        "conflicts": f"{found['conflicts']:,} rows have a text that is there under another label too",
        "groups": f"{found['groups']:,} names in the group column" if found["groups"] else "no group column",
        **{
            f"tokens, {name}": f"median {tokens[name]['p50']:.0f}, 95 % up to {tokens[name]['p95']:.0f}; "
            f"{tokens[name]['cut']:.1%} cut at {tokens['limit']}"
            for name in ("train", "dev")
        },
    }


def _foot(report: dict[str, Any]) -> dict[str, str]:
    run, machine = report["run"], report["run"]["machine"]
    return {
        "recipe": ", ".join(
            f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in report["recipe"].items()
        ),
        "time": f"{run['steps']:,} steps in {run['seconds']:,.0f} s, {run['made']}",
        "hardware": f"{run['device']}, {run['threads']} threads; {machine['cpu']}, {machine['cpus']} usable processors",
        "versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }
