"""The training loop: transformers' ``Trainer`` over ragged token ids, and the dev scores of what it made."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import EvalPrediction

from jirgee.checkpoint import Settings
from jirgee.metrics import evaluate
from jirgee.scorer import softmax

from .batches import Rows, collator, load_tokenizer, predict
from .budget import memory_advice
from .data import Dataset
from .processes import world_size
from .recipe import Recipe
from .saving import BestEpoch, Saver

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
    best: BestEpoch | None = None,
    saver: Saver | None = None,
    logdir: Path | None = None,
) -> Fitted:
    """Fine-tune ``model`` in place; ``work``: a directory that the Trainer may write to.

    AdamW, linear warm-up then linear decay, batches of similar length padded to their longest; the epoch with the best
    dev accuracy wins. ``best`` and ``saver``, made for each other, make the run one that can be resumed, or resume it.
    ``logdir``: for TensorBoard. Raises MachineError naming the flag to lower when memory runs out.
    """
    tokenizer = load_tokenizer(settings, base)
    best = best or BestEpoch(recipe.patience)
    gold = data.train.indices(data.classes)
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=2 * recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=recipe.learning_rate,
        warmup_ratio=recipe.warmup,
        weight_decay=recipe.weight_decay,
        use_cpu=not torch.cuda.is_available() and (world_size() > 1 or recipe.precision != "fp32"),
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        remove_unused_columns=False,
        seed=recipe.seed,
        eval_strategy="epoch",
        save_strategy="no",  # the saver decides
        logging_strategy="epoch",
        logging_dir=str(logdir) if logdir else None,
        report_to=["tensorboard"] if logdir else [],
        disable_tqdm=quiet or not sys.stderr.isatty(),
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(tokenizer, data.train.texts, gold),
        eval_dataset=Rows(tokenizer, data.dev.texts, data.dev.indices(data.classes)),
        data_collator=collator(settings.tokenizer.pad_id),
        compute_metrics=_dev_metrics(data.classes),
        compute_loss_func=_balanced_loss(gold, len(data.classes)) if recipe.class_weights == "balanced" else None,
        callbacks=[best, *([saver] if saver else []), *([_Curve()] if logdir else [])],
    )
    trainer.remove_callback(PrinterCallback)  # it writes to standard output
    if not quiet:
        trainer.add_callback(_Epochs())
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'pin_memory' argument.*")
        with memory_advice(
            f"lower --batch-size (now {recipe.batch_size}; --accumulate makes up for it) or --max-tokens (now "
            f"{recipe.max_tokens})"
        ):
            trainer.train(resume_from_checkpoint=str(saver.start) if saver and saver.start else None)
    seconds = saver.seconds() if saver else time.perf_counter() - began
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # from here on in 32 bits
    model.load_state_dict(best.weights)
    dev_logits = predict(model, settings, base, data.dev.texts)
    history = trainer.state.log_history
    return Fitted(model, dev_logits, trainer.state.global_step, mean_loss(history), seconds, history)


class _Order(torch.utils.data.Sampler[int]):
    """Batches of similar length in an order that depends on the seed and the epoch alone, so that a resumed run, and
    each of several processes, finds it again."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self._seed << 16) + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))


class _Trainer(Trainer):
    """The Trainer with ``_Order``. Everything else is as transformers has it."""

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        rows, size = self.train_dataset, self.args.train_batch_size
        assert isinstance(rows, Rows)
        lengths = [rows[row]["length"] for row in range(len(rows))]
        loader = torch.utils.data.DataLoader(
            rows,
            batch_size=size,
            sampler=_Order(lengths, size * self.args.gradient_accumulation_steps, self.args.seed),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)


def _balanced_loss(gold: np.ndarray, classes: int):
    """Cross-entropy in which every class has the same total weight, and a row of weight 1 on average."""
    weights = torch.from_numpy(len(gold) / (classes * np.maximum(np.bincount(gold, minlength=classes), 1))).float()

    def loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        rows = torch.nn.functional.cross_entropy(logits, labels, weights.to(logits.device), reduction="none")
        return rows.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def mean_loss(history: Sequence[dict[str, Any]], after: int = 0) -> float:
    """Mean training loss a step, of the steps behind ``after``; an entry of the log is the mean since the last one."""
    total, steps, last = 0.0, 0, 0
    for entry in history:
        if "loss" in entry:
            if entry["step"] > after:
                total, steps = total + entry["loss"] * (entry["step"] - last), steps + entry["step"] - last
            last = entry["step"]
    return total / steps if steps else float("nan")


class _Epochs(TrainerCallback):
    """One line an epoch on standard error, where the progress bar is too."""

    def on_evaluate(self, args, state, control, metrics=None, **rest):
        if metrics and args.process_index == 0:
            before = [entry["step"] for entry in state.log_history if "eval_loss" in entry][:-1]
            loss = mean_loss(state.log_history, before[-1] if before else 0)
            line = f"epoch {state.epoch:g}: loss {loss:.4f}, dev accuracy {metrics['eval_accuracy']:.4f}"
            print(("" if args.disable_tqdm else "\n") + line, file=sys.stderr)


class _Curve(TrainerCallback):
    """A point of the loss curve every few steps, for TensorBoard."""

    def on_step_end(self, args, state, control, **rest):
        if state.global_step % 10 == 0:
            control.should_log = True


def _dev_metrics(classes: list[str]):
    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits, gold = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        figures = evaluate(softmax(logits), gold, classes)
        return {"accuracy": figures["accuracy"], "macro_f1": figures["macro_f1"]}

    return compute
