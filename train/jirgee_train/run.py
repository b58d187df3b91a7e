"""A whole training run: data and recipe in, a checkpoint directory out, which appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

from transformers import set_seed

from jirgee.bundle import NGRAMS, replace
from jirgee.checkpoint import Settings, read_settings
from jirgee.errors import InputError

from . import bases, fit, model, report
from .calibrate import fit_mix
from .data import Dataset
from .ngrams import fit_ngrams
from .recipe import Recipe


def open_base(recipe: Recipe, classes: list[str]) -> tuple[Path, Settings, Any]:
    """The base's directory, what it says of texts, and its encoder with a new head for ``classes``.

    Raises InputError if there is no such base or it cannot take texts of ``recipe.max_tokens``.
    """
    base = bases.resolve(recipe.base)
    limit = model.position_limit(base)
    if recipe.max_tokens > limit:
        raise InputError(
            f"max_tokens {recipe.max_tokens} is more than the {limit} positions of {recipe.base}; lower --max-tokens"
        )
    settings = Settings(read_settings(base).tokenizer, recipe.max_tokens)
    set_seed(recipe.seed)
    return base, settings, model.load_classifier(base, classes)


def train(opened: tuple[Path, Settings, Any], data: Dataset, recipe: Recipe, out: Path, quiet: bool) -> dict[str, Any]:
    """Fine-tune, calibrate, judge and write ``out``; returns the figures of ``eval_results.json``."""
    base, settings, classifier = opened
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        fitted = fit.fit(classifier, data, settings, recipe, base, staging / "work", quiet)
        checkpoint = staging / "checkpoint"
        checkpoint.mkdir()
        gold, ngram_logits = data.dev.indices(data.classes), None
        if recipe.ngrams:
            ngrams = fit_ngrams(data.train.texts, data.train.indices(data.classes), len(data.classes), recipe.ngrams)
            ngram_logits = ngrams.logits(data.dev.texts)
            (checkpoint / NGRAMS).write_bytes(ngrams.to_bytes())
        mix = fit_mix(fitted.dev_logits, ngram_logits, gold)
        settings = with_changes(settings, temperature=mix.temperature, ngram_weight=mix.ngram_weight)
        model.save_checkpoint(fitted.model, base, settings, checkpoint)
        (checkpoint / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        results = report.eval_results(fitted, ngram_logits, mix, data, recipe.seed)
        report.write_results(results, checkpoint)
        replace(checkpoint, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return results
