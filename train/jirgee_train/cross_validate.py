"""A recipe trained K times, each time judged by rows that it has not seen: how good, and by how much that varies."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.errors import InputError
from jirgee.machine import describe

from . import fit, processes, report, run
from .calibrate import fit_mix
from .data import Dataset
from .ngrams import fit_ngrams
from .recipe import Recipe

PARTS = {"baseline_tfidf": "TF-IDF + logistic", "encoder": "encoder", "ngrams": "ngrams", "hybrid": "hybrid"}
FIGURES = ("accuracy", "macro_f1", "ece")


def cross_validate(folds: Sequence[Dataset], recipe: Recipe, out: Path, quiet: bool) -> dict[str, Any]:
    """Train a fresh model on each of ``folds``; writes ``folds.json`` into the new directory ``out`` and returns it."""
    if processes.world_size() > 1:
        raise InputError("--folds runs in one process; start it without torchrun")
    results = []
    for number, data in enumerate(folds, 1):
        results.append(_train(data, recipe, quiet))
        if not quiet:
            line = ", ".join(
                f"{PARTS[name]} {results[-1][name]['accuracy']:.4f}" for name in PARTS if name in results[-1]
            )
            print(f"fold {number} of {len(folds)}: accuracy {line}", file=sys.stderr)
    report_of_all = {
        "folds": len(folds),
        "rows": len(folds[0].train) + len(folds[0].dev),
        "classes": folds[0].classes,
        "summary": {
            name: {
                figure: {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "values": values}
                for figure in FIGURES
                for values in [[result[name][figure] for result in results]]
            }
            for name in PARTS
            if name in results[0]
        },
        "dev_rows": [len(data.dev) for data in folds],
        "seconds": round(sum(result["seconds"] for result in results), 1),
        "recipe": asdict(recipe),
        "machine": describe(),
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report_of_all, indent=1, ensure_ascii=False)
    (out / "folds.json").write_text(text + "\n", encoding="utf-8")
    return report_of_all


def _train(data: Dataset, recipe: Recipe, quiet: bool) -> dict[str, Any]:
    base, settings, model = run.open_base(recipe, data.classes)
    with tempfile.TemporaryDirectory(prefix="jirgee-fold-") as work:
        fitted = fit.fit(model, data, settings, recipe, base, Path(work), quiet)
    gold, ngram_logits = data.dev.indices(data.classes), None
    if recipe.ngrams:
        ngrams = fit_ngrams(data.train.texts, data.train.indices(data.classes), len(data.classes), recipe.ngrams)
        ngram_logits = ngrams.logits(data.dev.texts)
    mix = fit_mix(fitted.dev_logits, ngram_logits, gold)
    judged = report.judge(fitted.dev_logits, ngram_logits, data, recipe.seed)
    return report.eval_results(fitted, judged, mix, data)


def folds_table(found: dict[str, Any]) -> str:
    """Mean and standard deviation over the folds, for a terminal."""
    lines = [f"{'':24}{'accuracy':>18}{'macro F1':>18}"]
    for name, figures in found["summary"].items():
        cells = (f"{figures[key]['mean']:.4f} ± {figures[key]['sd']:.4f}" for key in ("accuracy", "macro_f1"))
        lines.append(f"{PARTS[name]:24}" + "".join(f"{cell:>18}" for cell in cells))
    lines.append(
        f"mean ± standard deviation over {found['folds']} folds of {found['rows']} rows; each fold chose its best "
        "epoch, which flatters the encoder a little"
    )
    return "\n".join(lines)
