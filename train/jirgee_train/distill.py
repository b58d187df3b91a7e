"""Knowledge distillation: a student with few layers learns to say what its teacher says.

Soft labels (Hinton et al. 2015, arXiv:1503.02531) and hidden states of evenly spread layers (Sun et al. 2019,
arXiv:1908.09355), on unlabelled and labelled texts. Of a hybrid the student learns the mixed probabilities; it keeps
the n-grams beside it, which cost next to nothing, unless it is to do without them. The teacher reads each text once:
its soft labels and first-token states are kept in memory. Dev rows choose the epoch and how the student is mixed; no
weight of the model is fitted on them.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from transformers import PreTrainedModel, set_seed

from jirgee import bundle
from jirgee.errors import InputError
from jirgee.machine import describe
from jirgee.metrics import evaluate
from jirgee.tokens import Encoded

from .batches import grouped_batches, load_tokenizer, predict, tensors
from .budget import Budget, memory_advice, warmed
from .calibrate import Mix, cross_fitted, fit_mix
from .cli_distill import Distillation
from .data import Dataset
from .model import save_checkpoint
from .precision import autocast
from .repeats import normalise
from .report import original_metrics, write_results
from .saving import write_errors
from .teacher import Teacher, make_student, matched_states, operations

SAY_SECONDS = 30.0
HELD_OUT_SHARE, HELD_OUT_MOST = 0.02, 1000  # of the texts, to choose the epoch by, when there is no dev set
NO_LABEL = -1


def distill(
    directory: Path,
    texts: Sequence[str],
    labelled: Dataset | list[str],
    choices: Distillation,
    out: Path,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the student's checkpoint ``out``; returns the figures of its ``eval_results.json``.

    ``texts``: unlabelled, none of them a dev text. ``labelled``: rows with the teacher's classes, or, where there are
    none, the classes alone.
    """
    data = labelled if isinstance(labelled, Dataset) else None
    classes = labelled.classes if isinstance(labelled, Dataset) else labelled
    out.parent.mkdir(parents=True, exist_ok=True)
    set_seed(choices.seed)
    teacher = Teacher.load(directory, classes)
    student = make_student(teacher, choices.layers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.model.to(device)  # type: ignore[arg-type]
    student.to(device)  # type: ignore[arg-type]
    texts, judged, gold = _divide(list(texts), data, choices.seed)
    with memory_advice("give fewer --texts, or the most useful ones with --most"):
        lessons = _Lessons(teacher, texts, data, student.config.num_hidden_layers)
        ngrams = teacher.ngram_logits(judged)
        said = teacher.mixed(predict(teacher.model, teacher.settings, directory, judged), ngrams)

    def judge() -> tuple[np.ndarray, float]:
        logits = predict(student, teacher.settings, directory, judged)
        return logits, float((logits.argmax(axis=1) == (said.argmax(axis=1) if gold is None else gold)).mean())

    with memory_advice(f"lower --batch-size (now {choices.batch_size})"):
        course = _train(student, lessons, choices, judge, say)
    if choices.ngrams != "keep":
        ngrams = None
    mix = Mix()
    if gold is not None or ngrams is not None:
        mix = fit_mix(course.logits, ngrams, said.argmax(axis=1) if gold is None else gold)
    agreement = float((mix.probs(course.logits, ngrams).argmax(axis=1) == said.argmax(axis=1)).mean())
    ratio = operations(teacher.model.config, lessons.mean_length) / operations(student.config, lessons.mean_length)
    results: dict[str, Any] = {}
    if data and gold is not None:
        student_figures = evaluate(cross_fitted(course.logits, ngrams, gold, choices.seed), gold, classes)
        teacher_figures = evaluate(Mix().probs(said), gold, classes)
        plain = evaluate(Mix().probs(course.logits), gold, classes)
        brief = ("accuracy", "macro_f1", "ece")
        results |= student_figures | original_metrics(student_figures, classes)
        results |= {"eval_loss": plain["loss"], "ece_uncalibrated": plain["ece"]}
        results |= {"teacher": {name: teacher_figures[name] for name in brief}}
        results |= {"student": {name: student_figures[name] for name in brief}}
        results |= {"encoder": {name: plain[name] for name in brief}}
        results |= {"train_rows": len(data.train), "dev_rows": len(data.dev)}
    results |= {
        "global_step": course.step,
        "loss": course.loss,
        "temperature": mix.temperature,
        "ngram_weight": mix.ngram_weight,
        "agreement": agreement,
        "judged_on": len(judged),
        "layers": [teacher.model.config.num_hidden_layers, choices.layers],
        "operations_ratio": ratio,
        "texts": len(lessons),
        "seconds": round(course.seconds, 1),
        "machine": describe(),
        "history": course.history,
    }
    settings = replace(teacher.settings, temperature=mix.temperature, ngram_weight=mix.ngram_weight)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with write_errors(out, lambda: "make room, or write elsewhere with -o"):
            checkpoint = staging / "checkpoint"
            checkpoint.mkdir()
            save_checkpoint(student.cpu(), directory, settings, checkpoint)
            if mix.ngram_weight and teacher.ngrams:
                (checkpoint / bundle.NGRAMS).write_bytes(teacher.ngrams.to_bytes())
            record = f"teacher = {json.dumps(directory.name, ensure_ascii=False)}\n{choices.to_toml()}"
            (checkpoint / "distill.toml").write_text(record, encoding="utf-8")
            write_results(results, checkpoint)
            bundle.replace(checkpoint, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return results


def _divide(texts: list[str], data: Dataset | None, seed: int) -> tuple[list[str], list[str], np.ndarray | None]:
    """Texts to learn from, texts to judge by, and the latter's classes where they are known."""
    if data:
        labelled = {normalise(text) for text in data.train.texts}
        rest = [text for text in texts if normalise(text) not in labelled]
        return rest, data.dev.texts, data.dev.indices(data.classes)
    held = max(1, min(HELD_OUT_MOST, round(HELD_OUT_SHARE * len(texts))))
    if len(texts) <= held:
        raise InputError("one distinct text is too few to learn from and judge by; give --texts more, or --data")
    order = np.random.default_rng(seed).permutation(len(texts))
    return [texts[row] for row in np.sort(order[held:])], [texts[row] for row in np.sort(order[:held])], None


class _Lessons:
    """All texts, encoded; the labelled ones first, with their classes. What the teacher said is kept."""

    def __init__(self, teacher: Teacher, texts: Sequence[str], data: Dataset | None, layers: int):
        labelled = data.train.texts if data else []
        everything = [*labelled, *texts]
        self.teacher = teacher
        self.encoded: Encoded = load_tokenizer(teacher.settings, teacher.directory).encode(everything)
        self.gold = np.full(len(everything), NO_LABEL, dtype=np.int64)
        if data:
            self.gold[: len(labelled)] = data.train.indices(data.classes)
        self._ngrams = teacher.ngram_logits(everything)
        config = teacher.model.config
        self.states = matched_states(config.num_hidden_layers, layers)
        self.spread = torch.zeros(layers)  # mean variance of the tokens' states a layer, over the batches heard
        self._batches = 0
        self._heard = np.zeros(len(everything), dtype=bool)
        self._logits = np.zeros((len(everything), config.num_labels), dtype=np.float32)
        self._first = np.zeros((len(everything), layers, config.hidden_size), dtype=np.float16)

    def __len__(self) -> int:
        return len(self.gold)

    @property
    def mean_length(self) -> float:
        return float(self.encoded.lengths.mean())

    def inputs(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return tensors(self.encoded, rows, self.teacher.settings.tokenizer.pad_id, self.teacher.model.device)

    @torch.no_grad()
    def hear(self, rows: np.ndarray, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor], bool]:
        """The teacher's mixed logits [b, k]; the states to match, a tensor a layer; whether these are of all tokens
        [b, width, h], as when the teacher reads a text for the first time, or of the first alone [b, 1, h]."""
        device = self.teacher.model.device
        if self._heard[rows].all():
            first = torch.from_numpy(self._first[rows].astype(np.float32)).to(device)
            return torch.from_numpy(self._logits[rows]).to(device), list(first[:, :, None].unbind(dim=1)), False
        output = self.teacher.model(**inputs, output_hidden_states=True)
        states = [output.hidden_states[at].float() for at in self.states]
        tokens = inputs["attention_mask"].bool()
        spread = torch.stack([state[tokens].var(dim=0, correction=0).mean() for state in states]).cpu()
        self._batches += 1
        self.spread += (spread - self.spread) / self._batches
        ngrams = None if self._ngrams is None else self._ngrams[rows]
        self._logits[rows] = self.teacher.mixed(output.logits.float().cpu().numpy(), ngrams)
        self._first[rows] = torch.stack([state[:, 0] for state in states], dim=1).cpu().numpy()
        self._heard[rows] = True
        return torch.from_numpy(self._logits[rows]).to(device), states, True


def lesson_loss(student: PreTrainedModel, lessons: _Lessons, rows: np.ndarray, choices: Distillation) -> torch.Tensor:
    """Mean over the rows: KL divergence of the soft labels, distance of the hidden states, cross-entropy of gold."""
    inputs = lessons.inputs(rows)
    wanted, states, all_tokens = lessons.hear(rows, inputs)
    output = student(**inputs, output_hidden_states=True)
    logits, heat = output.logits.float(), choices.temperature
    loss = heat**2 * kl_div(log_softmax(logits / heat, 1), softmax(wanted / heat, 1), reduction="batchmean")
    if choices.hidden:
        mask = inputs["attention_mask"].bool() if all_tokens else inputs["attention_mask"][:, :1].bool()
        width = mask.shape[1]
        own = [state[:, :width].float()[mask] for state in output.hidden_states[1:]]
        distances = [
            relative_distance(mine, state[mask], spread)
            for mine, state, spread in zip(own, states, lessons.spread.tolist(), strict=True)
        ]
        loss = loss + choices.hidden * torch.stack(distances).mean()
    gold = torch.from_numpy(lessons.gold[rows]).to(logits.device)
    if choices.gold and bool((gold != NO_LABEL).any()):
        loss = loss + choices.gold * cross_entropy(logits, gold, ignore_index=NO_LABEL, reduction="sum") / len(rows)
    return loss


def relative_distance(mine: torch.Tensor, wanted: torch.Tensor, spread: float) -> torch.Tensor:
    """Mean squared difference of two [m, h], 1 for a guess no better than the mean of states of variance ``spread``."""
    return (mine - wanted).square().mean() / max(spread, 1e-3)


@dataclass(frozen=True)
class _Course:
    """``logits``: float32 [n, k] of the judged texts by the best epoch, whose weights the student now has."""

    logits: np.ndarray
    step: int
    loss: float
    seconds: float
    history: list[dict[str, float]]


def _train(
    student: PreTrainedModel,
    lessons: _Lessons,
    choices: Distillation,
    judge: Callable[[], tuple[np.ndarray, float]],
    say: Callable[[str], None],
) -> _Course:
    """The loop; dropout stays off, because the teacher's answers are no noise to guard against."""
    groups = [[p for p in student.parameters() if (p.dim() > 1) == decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[0], "weight_decay": choices.weight_decay},
            {"params": groups[1], "weight_decay": 0.0},
        ],
        lr=choices.learning_rate,
    )
    per_epoch = math.ceil(len(lessons) / choices.batch_size)
    budget = Budget(per_epoch * choices.epochs, choices.minutes)
    context = autocast(choices.precision, student.device)
    student.eval()
    step, losses, history, batches = 0, [], [], []
    best, best_state, best_logits, said = -1.0, {}, np.zeros(0), time.monotonic()
    while (share := budget.share(step)) < 1:
        if step % per_epoch == 0:
            order = np.random.default_rng([choices.seed, step])
            batches = grouped_batches(lessons.encoded.lengths, choices.batch_size, order)
        for group in optimizer.param_groups:
            group["lr"] = choices.learning_rate * warmed(share, choices.warmup)
        with context:
            loss = lesson_loss(student, lessons, batches[step % per_epoch], choices)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        step += 1
        if time.monotonic() - said >= SAY_SECONDS:
            said = time.monotonic()
            say(f"{100 * share:3.0f} %: step {step}, loss {np.mean(losses[-50:]):.4f}")
        if step % per_epoch == 0 or budget.share(step) >= 1:
            logits, right = judge()
            entry = {"epoch": round(step / per_epoch, 3), "step": step, "loss": float(np.mean(losses)), "right": right}
            history.append(entry)
            say(f"epoch {entry['epoch']:g}: loss {entry['loss']:.4f}, right on {100 * right:.2f} % of the judged texts")
            losses.clear()
            if right >= best:
                best, best_logits = right, logits
                best_state = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
    if not best_state:
        raise InputError(f"--minutes {choices.minutes:g} is too short for one step")
    student.load_state_dict(best_state)
    return _Course(best_logits, step, history[-1]["loss"], budget.seconds(), history)
