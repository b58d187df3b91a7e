"""``report.json`` -> the model card, ``README.md`` of the checkpoint. It quotes no text of the data."""

from __future__ import annotations

import json
from typing import Any


def render(report: dict[str, Any]) -> str:
    """Markdown with the front matter that model hubs read."""
    figures, recipe, run = report["figures"], report["recipe"], report["run"]
    low, high = figures["accuracy_interval"]
    calibration, clean, gain = report["calibration"], report["hygiene"], report["gain_over_tfidf"]
    train, dev = (sum(report["labels"][name].values()) for name in ("train", "dev"))
    parts = [
        [name, f"{part['accuracy']:.4f}", _interval(part["accuracy_interval"]), f"{part['macro_f1']:.4f}"]
        for name, part in report["parts"].items()
    ]
    classes = [
        [_cell(name), *(f"{one[key]:.3f}" for key in ("precision", "recall", "f1")), str(one["support"])]
        for name, one in figures["per_class"].items()
    ]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [text-classification, jirgee]
---

# Text classifier: {_cell(", ".join(report["classes"]))}

A BERT fine-tuned by `jirgee train` from `{recipe["base"]}` on {train:,} labelled texts.
Accuracy {figures["accuracy"]:.4f} (95 % interval {low:.4f} to {high:.4f}), macro F1 {figures["macro_f1"]:.4f} on \
{dev:,} dev rows. {verdict(report)}

## Figures

{_table(["", "accuracy", "95 % interval", "macro F1"], parts)}

{_table(["class", "precision", "recall", "F1", "rows"], classes)}

The best epoch was chosen on the dev rows, which flatters the encoder a little; temperature and mixing weight are \
cross-fitted. Gain over TF-IDF: {_points(gain["accuracy"])} points (95 % interval {_points(gain["interval"][0])} to \
{_points(gain["interval"][1])}).

Expected calibration error {calibration["ece_before"]:.4f} before calibration, {calibration["ece_after"]:.4f} after \
(temperature {calibration["temperature"]:.3f}).

## Data

{train:,} train and {dev:,} dev rows. {clean["train_repeats"]:,} train and {clean["dev_repeats"]:,} dev rows (nearly) \
repeat another of their set; {clean["leaked"]:,} train rows repeated a dev row or shared its group, and \
{clean["dropped"]:,} of those were dropped. {clean["conflicts"]:,} rows have a text that is there under another label.

## Limits

It knows the texts that it was trained on: other topics, times and ways of writing will score lower than these figures.
Texts are cut at {report["tokens"]["limit"]} tokens ({report["tokens"]["dev"]["cut"]:.1%} of the dev rows were). \
`report.json` has the figures by length, emoji, script and unknown pieces.

## Use

```sh
jirgee export CHECKPOINT -o BUNDLE
jirgee score BUNDLE tweets.csv -o scored.csv
```

## Training

{run["steps"]} steps in {run["seconds"]:.0f} s on {_cell(run["machine"]["cpu"])} ({run["device"]}, {run["threads"]} \
threads), {run["made"]}.

```toml
{"".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" + chr(10) for name, value in recipe.items())}```
"""


def verdict(report: dict[str, Any]) -> str:
    """One sentence: whether the dev rows show that the model beats TF-IDF."""
    gain = report["gain_over_tfidf"]
    low, high = gain["interval"]
    if low > 0:
        return f"It beats TF-IDF with logistic regression by {_points(gain['accuracy'])} points on the same split."
    if high < 0:
        return (
            f"It is {_points(-gain['accuracy'])} points worse than TF-IDF with logistic regression on the same split: "
            "use that instead."
        )
    return (
        f"On the same split it is {_points(gain['accuracy'])} points from TF-IDF with logistic regression, which is "
        "within chance: the dev rows do not show which is better."
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("+", "").replace("-", "−")


def _interval(pair: list[float]) -> str:
    return f"{pair[0]:.4f} to {pair[1]:.4f}"


def _cell(text: str) -> str:
    """Text that cannot end its table cell or line."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;").split())


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
