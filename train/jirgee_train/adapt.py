"""Continued masked-language-model training of a base on unlabelled texts, before it is fine-tuned.

Domain-adaptive pre-training (Gururangan et al. 2020, arXiv:2004.10964). Bounded by the clock and resumable: the state
of the run lies in OUTPUT.work until the new base is written whole. The order of texts and the masks follow from the
seed and the place in the data alone, so a run without a time bound ends the same however often it was interrupted
(CPU, same threads).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, set_seed

from jirgee.bundle import replace
from jirgee.checkpoint import Settings, read_settings
from jirgee.errors import InputError, Interrupted
from jirgee.machine import describe
from jirgee.tokens import Encoded, TokenizerSpec

from . import bases
from .batches import grouped_batches, load_tokenizer
from .budget import Budget, memory_advice, warmed
from .cli_adapt import Adaptation
from .masked import IGNORED, guesses, load_masked_lm, masked_batch, open_head
from .model import position_limit, save_checkpoint
from .precision import autocast
from .resume import lock_of
from .saving import write_errors

STATE = "state.pt"
SAVE_SECONDS = 120.0  # at most so much work is lost
SAY_SECONDS = 30.0
HELD_OUT_SHARE, HELD_OUT_MOST = 0.02, 1000
NEW_HEAD_RATE = 1e-3  # a new head starts far from its place: its peak learning rate, if the encoder's is lower


@dataclass(frozen=True)
class Corpus:
    """Encoded texts: those to learn from and those to judge by, and what their pieces mean."""

    train: Encoded
    held_out: Encoded
    spec: TokenizerSpec
    vocabulary: int

    def masked(self, encoded: Encoded, rows: np.ndarray, share: float, rng: np.random.Generator):
        return masked_batch(encoded, rows, self.spec, self.vocabulary, share, rng)


def adapt(
    texts: list[str],
    choices: Adaptation,
    out: Path,
    work: Path,
    resume: bool,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the adapted base ``out``; returns the figures of its ``adapt_results.json``.

    Raises InputError for a base that cannot be had, has no mask token or too few positions, and for a state in ``work``
    that was begun with other texts or choices (``minutes`` and ``epochs`` may change).
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    base = bases.resolve(choices.base)
    settings = Settings(read_settings(base).tokenizer, choices.max_tokens)
    if settings.tokenizer.mask_id < 0:
        raise InputError("its tokenizer has no mask token, so there is nothing to guess", base)
    if choices.max_tokens > (limit := position_limit(base)):
        raise InputError(f"--max-tokens {choices.max_tokens} is more than the {limit} positions of {choices.base}")
    set_seed(choices.seed)
    model, new_head, pooler = load_masked_lm(base)
    if not settings.tokenizer.mask_id < model.config.vocab_size:
        raise InputError(f"its embeddings have no row {settings.tokenizer.mask_id} for the mask token", base)
    corpus = _corpus(texts, settings, base, model.config.vocab_size, choices.seed)
    if new_head:
        say("the base has no masked-LM head: a new one, tied to its embeddings")
        open_head(model, np.bincount(corpus.train.ids, minlength=corpus.vocabulary))
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    run = _Run(model, corpus, choices, new_head, work, _fingerprint(texts, choices, base))
    finished = False
    with lock_of(out):
        try:
            run.begin(resume, say)
            advice = f"lower --batch-size (now {choices.batch_size}) or --max-tokens (now {choices.max_tokens})"
            with write_errors(work, lambda: _remedy(work)):
                with memory_advice(advice):
                    run.train(say)
                results = run.results() | {"texts": len(corpus.train), "held_out": len(corpus.held_out)}
                results |= {"new_head": new_head, "choices": asdict(choices), "machine": describe()}
                directory = work / "result"
                directory.mkdir()
                save_base(model.cpu(), pooler, base, settings, directory)
                (directory / "adapt_results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                replace(directory, out)
            finished = True
        except KeyboardInterrupt:
            if (work / STATE).is_file():
                raise Interrupted("--resume", work) from None
            raise
        finally:
            shutil.rmtree(work / "result", ignore_errors=True)
            if finished or not (work / STATE).is_file():
                shutil.rmtree(work, ignore_errors=True)
    return results


def _remedy(work: Path) -> str:
    if (work / STATE).is_file():
        return "make room, then go on with --resume"
    return "make room, or write elsewhere with -o"


def save_base(
    model: PreTrainedModel, pooler: dict[str, torch.Tensor], base: Path, settings: Settings, out: Path
) -> None:
    """Write encoder, head, the base's own pooler and its tokenizer into the existing directory ``out``."""
    save_checkpoint(model, base, settings, out)
    if pooler:
        mode = (out / "model.safetensors").stat().st_mode
        model.save_pretrained(out, state_dict={**model.state_dict(), **pooler}, safe_serialization=True)
        (out / "model.safetensors").chmod(mode)
        (out / "config.json").chmod(mode)


def _corpus(texts: list[str], settings: Settings, base: Path, vocabulary: int, seed: int) -> Corpus:
    order = np.random.default_rng(seed).permutation(len(texts))
    held = max(1, min(HELD_OUT_MOST, round(HELD_OUT_SHARE * len(texts))))
    tokenizer = load_tokenizer(settings, base)
    held_out = tokenizer.encode([texts[row] for row in np.sort(order[:held])])
    train = tokenizer.encode([texts[row] for row in np.sort(order[held:])])
    return Corpus(train, held_out, settings.tokenizer, vocabulary)


def _fingerprint(texts: Sequence[str], choices: Adaptation, base: Path) -> str:
    fixed = {name: value for name, value in asdict(choices).items() if name not in ("minutes", "epochs", "base")}
    digest = hashlib.sha256(json.dumps([str(base.resolve()), fixed]).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()


class _Run:
    """The loop and its state: weights, AdamW's moments, random numbers, the place in the data, seconds spent."""

    def __init__(
        self,
        model: PreTrainedModel,
        corpus: Corpus,
        choices: Adaptation,
        new_head: bool,
        work: Path,
        fingerprint: str,
    ):
        self.model, self.corpus, self.choices = model, corpus, choices
        self.work, self.fingerprint = work, fingerprint
        self.per_epoch = math.ceil(len(corpus.train) / choices.batch_size)
        self.optimizer = _optimizer(model, choices, new_head)
        self.autocast = autocast(choices.precision, model.device)
        self.step, self.spent, self.before = 0, 0.0, {}

    def begin(self, resume: bool, say: Callable[[str], None]) -> None:
        """Load the state of an interrupted run if there is one and ``resume``; else measure where the base stands."""
        path = self.work / STATE
        if resume and path.is_file():
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InputError(f"is damaged ({reason}); start again with --overwrite", path) from None
            if state["fingerprint"] != self.fingerprint:
                raise InputError(
                    "was begun with other texts, another base or other choices; give the same, or start again with "
                    "--overwrite",
                    path,
                )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            self.step, self.spent, self.before = state["step"], state["spent"], state["before"]
            say(f"resumed at step {self.step}, after {self.spent / 60:.1f} minutes")
            return
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()  # a place that cannot be written to is found now, not in an hour
        self.before = self.judge()
        say(f"held-out masked-LM loss {self.before['loss']:.4f}")

    def save(self) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "spent": self.budget.seconds(),
            "before": self.before,
        }
        partial = self.work / f"{STATE}.partial"
        torch.save(state, partial)
        os.replace(partial, self.work / STATE)

    def train(self, say: Callable[[str], None]) -> None:
        choices = self.choices
        self.budget = Budget(self.per_epoch * choices.epochs, choices.minutes, self.spent)
        saved = said = time.monotonic()
        losses: list[float] = []
        self.model.train()
        batches, of_epoch = [], -1
        while (share := self.budget.share(self.step)) < 1:
            epoch, place = divmod(self.step, self.per_epoch)
            if epoch != of_epoch:
                order = np.random.default_rng([choices.seed, epoch])
                batches, of_epoch = grouped_batches(self.corpus.train.lengths, choices.batch_size, order), epoch
            losses.append(self._one_step(batches[place], share))
            self.step += 1
            now = time.monotonic()
            if now - said >= SAY_SECONDS:
                mean, said = sum(losses) / len(losses), now
                losses.clear()
                say(f"{100 * share:3.0f} %: step {self.step}, masked-LM loss {mean:.4f}")
            if now - saved >= SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.spent = self.budget.seconds()

    def _one_step(self, rows: np.ndarray, share: float) -> float:
        rng = np.random.default_rng([self.choices.seed, 1, self.step])
        inputs, labels = self.corpus.masked(self.corpus.train, rows, self.choices.share, rng)
        if not (labels != IGNORED).any():  # a batch of texts without a known piece
            return 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * warmed(share, self.choices.warmup)
        with self.autocast:
            loss = cross_entropy(*guesses(self.model, inputs, labels))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    @torch.inference_mode()
    def judge(self) -> dict[str, float]:
        """Masked-LM loss and accuracy on the held-out texts, always with the same masks."""
        self.model.eval()
        encoded, rng = self.corpus.held_out, np.random.default_rng([self.choices.seed, 2])
        order = np.argsort(encoded.lengths, kind="stable")
        loss, right, asked = 0.0, 0, 0
        for start in range(0, len(order), 32):
            inputs, labels = self.corpus.masked(encoded, order[start : start + 32], self.choices.share, rng)
            if not (labels != IGNORED).any():
                continue
            logits, gold = guesses(self.model, inputs, labels)
            loss += float(cross_entropy(logits, gold, reduction="sum"))
            right += int((logits.argmax(dim=1) == gold).sum())
            asked += len(gold)
        return {"loss": loss / max(asked, 1), "accuracy": right / max(asked, 1)}

    def results(self) -> dict[str, Any]:
        return {"before": self.before, "after": self.judge(), "steps": self.step, "seconds": round(self.spent, 1)}


def _optimizer(model: PreTrainedModel, choices: Adaptation, new_head: bool) -> torch.optim.AdamW:
    """AdamW; biases and LayerNorms do not decay, and what is only a new head's learns faster."""
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        fresh = new_head and id(parameter) not in encoder
        groups.setdefault((fresh, parameter.dim() > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak": max(choices.learning_rate, NEW_HEAD_RATE if fresh else 0.0),
                "weight_decay": choices.weight_decay if decays else 0.0,
            }
            for (fresh, decays), parameters in groups.items()
        ],
        lr=choices.learning_rate,
    )
