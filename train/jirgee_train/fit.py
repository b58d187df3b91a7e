"""The training loop: transformers' ``Trainer`` over ragged token ids, and the dev scores of what it made."""

from __future__ import annotations

import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import EvalPrediction

from jirgee.checkpoint import Settings
from jirgee.errors import MachineError
from jirgee.metrics import evaluate
from jirgee.scorer import softmax

from .batches import Rows, collator, load_tokenizer, predict
from .data import Dataset
from .recipe import Recipe

__all__ = ["Fitted", "fit", "load_tokenizer", "predict"]


@dataclass(frozen=True)
class Fitted:
    """``dev_logits``: float32 [n_dev, k] of the best epoch. ``history``: the Trainer's log, a dict an entry."""

    model: PreTrainedModel
    dev_logits: np.ndarray
    global_step: int
    train_loss: float
    seconds: float
    history: list[dict[str, Any]]


def fit(
    model: PreTrainedModel,
    data: Dataset,
    settings: Settings,
    recipe: Recipe,
    base: Path,
    work: Path,
    quiet: bool,
) -> Fitted:
    """Fine-tune ``model`` in place; ``work``: a directory for the epochs' weights.

    AdamW, linear warm-up then linear decay, batches of similar length padded to their longest; the epoch with the best
    dev accuracy wins. Raises MachineError naming the flag to lower when memory runs out.
    """
    tokenizer = load_tokenizer(settings, base)
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=2 * recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=recipe.learning_rate,
        warmup_steps=_warmup_steps(recipe, len(data.train)),
        weight_decay=recipe.weight_decay,
        group_by_length=True,
        length_column_name="length",
        remove_unused_columns=False,
        seed=recipe.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_strategy="epoch",
        report_to=[],
        disable_tqdm=quiet or not sys.stderr.isatty(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(tokenizer, data.train.texts, data.train.indices(data.classes)),
        eval_dataset=Rows(tokenizer, data.dev.texts, data.dev.indices(data.classes)),
        data_collator=collator(settings.tokenizer.pad_id),
        compute_metrics=_dev_metrics(data.classes),
        callbacks=[EarlyStoppingCallback(recipe.patience)] if recipe.patience else [],
    )
    trainer.remove_callback(PrinterCallback)  # it writes to standard output
    if not quiet:
        trainer.add_callback(_Epochs)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'pin_memory' argument.*")
        warnings.filterwarnings("ignore", message="mtime may not be reliable")
        try:
            result = trainer.train()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            raise MachineError(
                f"out of memory while training; lower --batch-size (now {recipe.batch_size}; --accumulate makes up for "
                f"it) or --max-tokens (now {recipe.max_tokens})"
            ) from None
    seconds = time.perf_counter() - began
    dev_logits = predict(model, settings, base, data.dev.texts)
    return Fitted(model, dev_logits, result.global_step, result.training_loss, seconds, trainer.state.log_history)


class _Epochs(TrainerCallback):
    """One line an epoch on standard error, where the progress bar is too."""

    def on_evaluate(self, args, state, control, metrics=None, **rest):
        if metrics and state.is_world_process_zero:
            loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), float("nan"))
            line = f"epoch {state.epoch:g}: loss {loss:.4f}, dev accuracy {metrics['eval_accuracy']:.4f}"
            print(("" if args.disable_tqdm else "\n") + line, file=sys.stderr)


def _warmup_steps(recipe: Recipe, rows: int) -> int:
    steps = math.ceil(math.ceil(rows / recipe.batch_size) / recipe.accumulate) * recipe.epochs
    return round(recipe.warmup * steps)


def _dev_metrics(classes: list[str]):
    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits, gold = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        figures = evaluate(softmax(logits), gold, classes)
        return {"accuracy": figures["accuracy"], "macro_f1": figures["macro_f1"]}

    return compute
