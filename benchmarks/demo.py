"""The last step of ``make demo``: measure what the steps before it made, write one HTML page, print a short table.

    python -m benchmarks.demo --checkpoint CK --bundle B --data samples --scored scored.csv --texts tweets.csv -o PAGE

Quality is measured on the dev file of ``--data``; speed on texts of ``--texts``, the ways compared in turn in one
process, tokenising included.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import jirgee
from jirgee.checkpoint import Settings, read_labels, read_settings
from jirgee.errors import InputError, JirgeeError, optional_import
from jirgee.labelled import checked_text, find_split
from jirgee.machine import cpu_count, describe
from jirgee.metrics import evaluate
from jirgee.rows import Row, read_rows
from jirgee.scorer import softmax
from jirgee.tokens import Tokenizer

from .page import Form, Report, Scored, Speed, rate, render

NAIVE_WIDTH, NAIVE_BATCH = 128, 8  # mn-tweet-bert's: every text padded to 128 tokens, 8 in a batch
SPEED_TEXTS, ROUNDS = 200, 3
PACKAGES = ("torch", "transformers", "onnxruntime", "scikit-learn", "sentencepiece", "numpy")


def measure(args: argparse.Namespace) -> Report:
    """Everything that the page says. Raises JirgeeError for inputs that do not fit each other."""
    import torch

    from jirgee_train.data import read_dataset
    from jirgee_train.fit import predict
    from jirgee_train.model import load_classifier, position_limit
    from jirgee_train.recipe import Recipe
    from jirgee_train.report import tfidf_baseline, tfidf_classifier

    if find_split(args.data, "dev") is None:
        raise InputError("holds no dev.tsv, dev.csv or dev.jsonl to measure on", args.data)
    defaults = Recipe()
    data = read_dataset([args.data], defaults.dev_share, defaults.seed)
    scored, texts = read_scored(args.scored), read_texts(args.texts)
    bundle = jirgee.Bundle.load(args.bundle)
    labels = read_labels(args.checkpoint)
    if labels is None or labels != list(bundle.labels):
        raise InputError(
            f"its labels are {labels}, the bundle's {list(bundle.labels)}: not its checkpoint", args.bundle
        )
    if strange := {row.label for row in scored} - set(labels):
        raise InputError(f"has the label {min(strange)!r}, which the bundle has not; score it again", args.scored)
    settings = read_settings(args.checkpoint)
    model = load_classifier(args.checkpoint, labels).eval()
    gold = data.dev.indices(labels)
    torch.set_num_threads(cpu_count())

    with jirgee.Scorer.load(bundle) as scorer:
        logits = predict(model, settings, args.checkpoint, data.dev.texts)
        in_torch = evaluate(softmax(logits, settings.temperature), gold, labels)
        in_bundle = evaluate(scorer.score(data.dev.texts).probs, gold, labels)
        tfidf = tfidf_classifier().fit(data.train.texts, data.train.labels)
        width = min(NAIVE_WIDTH, position_limit(args.checkpoint))
        naive = naive_scorer(model, settings, args.checkpoint, width)
        distinct = sorted(set(texts))
        sample = random.Random(0).sample(distinct, min(SPEED_TEXTS, len(distinct)))
        for run in (naive, scorer.score, tfidf.predict_proba):
            run(sample[:NAIVE_BATCH])
        found = interleaved(
            {
                "naive": (naive, sample),
                "bundle": (scorer.score, sample),
                "file": (scorer.score, texts),
                "tfidf": (tfidf.predict_proba, distinct),
            }
        )
    baseline = tfidf_baseline(data)
    return Report(
        classes=labels,
        forms=(
            Form("TF-IDF", baseline["accuracy"], baseline["macro_f1"], None, found["tfidf"]),
            Form(
                "checkpoint (PyTorch)",
                in_torch["accuracy"],
                in_torch["macro_f1"],
                disk_size(args.checkpoint),
                found["naive"],
            ),
            Form(
                f"bundle ({bundle.recipe})",
                in_bundle["accuracy"],
                in_bundle["macro_f1"],
                disk_size(args.bundle),
                found["bundle"],
            ),
        ),
        confusion=in_bundle["confusion"],
        scored=scored,
        speed=Speed(found["naive"], found["bundle"], found["file"], len(sample), width, ROUNDS),
        train_rows=len(data.train),
        dev_rows=len(data.dev),
        foot=foot(scorer),
    )


def naive_scorer(model: Any, settings: Settings, checkpoint: Path, width: int) -> Callable[[list[str]], np.ndarray]:
    """PyTorch as mn-tweet-bert ran it: texts in their order, ``NAIVE_BATCH`` at a time, each padded to ``width``."""
    import torch

    file = (checkpoint / settings.tokenizer.file).read_bytes()
    tokenizer = Tokenizer(settings.tokenizer, file, min(width, settings.max_tokens))

    @torch.inference_mode()
    def score(texts: list[str]) -> np.ndarray:
        logits = []
        for start in range(0, len(texts), NAIVE_BATCH):
            encoded = tokenizer.encode(texts[start : start + NAIVE_BATCH])
            ids, mask = encoded.padded(np.arange(len(encoded)), width, settings.tokenizer.pad_id)
            output = model(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long())
            logits.append(output.logits.numpy())
        return softmax(np.concatenate(logits), settings.temperature)

    return score


def interleaved(
    ways: dict[str, tuple[Callable[[list[str]], Any], list[str]]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Median texts per second of each (function, texts), run in turn so that a busy moment hits all alike."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        progress(f"measuring speed, round {number + 1} of {rounds}")
        for name, (run, texts) in ways.items():
            began = time.perf_counter()
            run(texts)
            rates[name].append(len(texts) / (time.perf_counter() - began))
    return {name: float(np.median(values)) for name, values in rates.items()}


def read_texts(path: Path) -> list[str]:
    """The texts of a file, repeats included. Raises InputError for a row that is not one, or for no rows."""
    texts = [checked_text(row.record, "text", path, row.line) for row in good_rows(path)]
    if not texts:
        raise InputError("holds no rows", path)
    return texts


def read_scored(path: Path) -> list[Scored]:
    """The rows of a file that ``jirgee score`` wrote. Raises InputError for any other."""
    scored = []
    for row in good_rows(path):
        prefix = "predicted_" if "predicted_label" in row.record else ""
        try:
            label, score = row.record[f"{prefix}label"], float(row.record[f"{prefix}score"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a scored row ({error}); make it with jirgee score", path, row.line) from None
        scored.append(Scored(checked_text(row.record, "text", path, row.line), label, score))
    if not scored:
        raise InputError("holds no rows", path)
    return scored


def good_rows(path: Path) -> list[Row]:
    rows = []
    for item in read_rows(path):
        if not isinstance(item, Row):
            raise InputError(item.reason, path, item.line)
        rows.append(item)
    return rows


def disk_size(path: Path) -> int:
    """Bytes of a file, or of all files of a directory."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def foot(scorer: jirgee.Scorer) -> dict[str, str]:
    """Machine, versions and date, for people."""
    machine = describe()
    dot = "8-bit dot products" if machine["int8_dot"] else "no 8-bit dot products"
    return {
        "machine": f"{machine['cpu']}, {machine['cpus']} usable processors, {dot}; {machine['os']} {machine['arch']}",
        "device": f"bundle on {scorer.device}, PyTorch on cpu, {cpu_count()} threads each",
        "versions": ", ".join(
            [f"jirgee {jirgee.__version__}", f"Python {machine['python']}"]
            + [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
        ),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def table(report: Report) -> str:
    """The terminal's table: a line for each form."""
    lines = [f"{'':22}{'accuracy':>10}{'macro F1':>10}{'size MB':>10}{'tweets/s':>10}"]
    for form in report.forms:
        size = "-" if form.size is None else f"{form.size / 1e6:.1f}"
        lines.append(f"{form.name:22}{form.accuracy:10.4f}{form.macro_f1:10.4f}{size:>10}{rate(form.rate):>10}")
    return "\n".join(lines)


def progress(message: str) -> None:
    if sys.stderr.isatty():
        print(message, file=sys.stderr)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description="measure a demo run, write its page")
    for name, what in (
        ("checkpoint", "directory from jirgee train"),
        ("bundle", "bundle from jirgee export"),
        ("data", "directory with train.* and dev.*"),
        ("scored", "file from jirgee score"),
        ("texts", "the file that was scored"),
    ):
        parser.add_argument(f"--{name}", required=True, type=Path, help=what)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="PAGE", help="HTML file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        for module, extra in (("matplotlib", "report"), ("torch", "train"), ("sklearn", "train")):
            optional_import(module, f"jirgee[{extra}]", "the demo report")
        report = measure(args)
        page = render(report)
        try:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            partial = args.output.with_name(f".{args.output.name}.partial")
            partial.write_bytes(page.encode("utf-8", "replace"))
            os.replace(partial, args.output)
        except OSError as error:
            raise InputError(f"cannot write: {error.strerror or error}", args.output) from None
    except JirgeeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    speed = report.speed
    print(table(report))
    print(
        f"bundle {speed.ratio:.1f}x PyTorch padded to {speed.width} tokens (same {speed.texts} tweets, in turn); "
        f"{rate(speed.file)} tweets/s on the whole file; see {args.output} and {args.scored}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
