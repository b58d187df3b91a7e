"""A whole training run: data and recipe in, a checkpoint directory out, which appears whole or not at all.

While it runs, everything is in the folder ``OUTPUT.work`` (see ``resume.py``), from which a later run may go on.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

from transformers import set_seed

from jirgee.bundle import NGRAMS, replace
from jirgee.checkpoint import Settings, read_settings
from jirgee.errors import InputError, Interrupted

from . import bases, findings, fit, hygiene, model, processes, report, resume
from .batches import load_tokenizer
from .calibrate import fit_mix
from .data import Dataset
from .ngrams import fit_ngrams
from .precision import check_precision
from .recipe import Recipe
from .saving import SAVE_EVERY, BestEpoch, Saver, hash_model, write_errors


def open_base(recipe: Recipe, classes: list[str]) -> tuple[Path, Settings, Any]:
    """The base's directory, what it says of texts, and its encoder with a new head for ``classes``.

    Raises InputError if there is no such base or it cannot take texts of ``recipe.max_tokens``, MachineError if this
    machine has not ``recipe.precision``.
    """
    check_precision(recipe.precision)
    with processes.first_before_others():  # the first may have to build or download it
        base = bases.resolve(recipe.base)
    limit = model.position_limit(base)
    if recipe.max_tokens > limit:
        raise InputError(
            f"max_tokens {recipe.max_tokens} is more than the {limit} positions of {recipe.base}; lower --max-tokens"
        )
    settings = Settings(read_settings(base).tokenizer, recipe.max_tokens)
    set_seed(recipe.seed)
    return base, settings, model.load_classifier(base, classes)


def describe_rows(data: Dataset, base: Path, settings: Settings) -> str:
    """What the rows are like for this base: repeats, leakage, lengths in tokens."""
    tokens = hygiene.lengths(load_tokenizer(settings, base).encode(data.train.texts))
    return hygiene.describe(data.hygiene, tokens, settings.max_tokens)


def train(
    opened: tuple[Path, Settings, Any],
    data: Dataset,
    recipe: Recipe,
    out: Path,
    quiet: bool,
    go_on: bool = False,
    save_every: float = SAVE_EVERY,
    logdir: Path | None = None,
) -> dict[str, Any]:
    """Fine-tune, calibrate, judge and write ``out``; returns the figures of ``eval_results.json``.

    ``go_on``: from what an interrupted run left, if it left anything. ``save_every``: seconds. Of several processes
    only the first writes ``out`` and returns figures.
    """
    first = processes.rank() == 0
    with resume.lock_of(out) if first else nullcontext():
        return _train(opened, data, recipe, out, quiet, go_on, save_every, logdir, first)


def _train(
    opened: tuple[Path, Settings, Any],
    data: Dataset,
    recipe: Recipe,
    out: Path,
    quiet: bool,
    go_on: bool,
    save_every: float,
    logdir: Path | None,
    first: bool,
) -> dict[str, Any]:
    base, settings, classifier = opened
    work = resume.work_of(out)
    now = resume.facts(recipe, data, hash_model(classifier, base / settings.tokenizer.file), processes.world_size())
    with write_errors(work, lambda: _remedy(work)), processes.first_before_others():
        start = resume.open_work(work, now, go_on) if first else resume.latest(work)
    finished = False
    try:
        with write_errors(work, lambda: _remedy(work)):
            best = BestEpoch(recipe.patience)
            saver = Saver(work, best, save_every, start)
            fitted = fit.fit(classifier, data, settings, recipe, base, work, quiet, best, saver, logdir)
            processes.leave()
            results = _write(fitted, data, settings, recipe, base, work / "result") if first else {}
            if first:
                replace(work / "result", out)
        finished = True
    except KeyboardInterrupt:
        if first and resume.latest(work):
            raise Interrupted("--resume", work) from None
        raise
    finally:
        if first:
            shutil.rmtree(work / "result", ignore_errors=True)
            if finished or not resume.latest(work):
                shutil.rmtree(work, ignore_errors=True)
    return results


def _remedy(work: Path) -> str:
    if resume.latest(work):
        return "make room, then go on with --resume"
    return "make room, or write elsewhere with -o"


def _write(
    fitted: fit.Fitted, data: Dataset, settings: Settings, recipe: Recipe, base: Path, checkpoint: Path
) -> dict[str, Any]:
    """Everything that follows from a fitted encoder, into the new directory ``checkpoint``."""
    shutil.rmtree(checkpoint, ignore_errors=True)
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
    judged = report.judge(fitted.dev_logits, ngram_logits, data, recipe.seed)
    results = report.eval_results(fitted, judged, mix, data)
    report.write_results(results, checkpoint)
    run = findings.Run(recipe, mix, fitted.global_step, fitted.seconds, fitted.history)
    findings.write(findings.findings(judged, data, run, load_tokenizer(settings, base)), checkpoint)
    return results
