"""The gate: is the bundle as good as the checkpoint? Measured on texts, compared with PyTorch in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from jirgee.bundle import NGRAMS, Bundle
from jirgee.checkpoint import Settings
from jirgee.errors import BundleError
from jirgee.metrics import evaluate
from jirgee.ngrams import NgramModel
from jirgee.plan import plan
from jirgee.scorer import Scorer, softmax
from jirgee.tokens import Tokenizer

BATCH_EFFECT_TEXTS = 64
FEW_FLIPS = 3  # of 180 texts 1 % are less than two: chance alone would refuse a good bundle


@dataclass(frozen=True)
class Limits:
    """What an export may lose. Shares are of the held-out texts; one more wrong label is always allowed, and one
    changed label (three from 150 texts on), so that a small file does not ask for more than it can measure.

    ``max_drop``: accuracy, in points. ``max_flips``: share of texts whose label changes, in percent.
    """

    max_drop: float = 0.5
    max_flips: float = 3.0


@dataclass(frozen=True)
class Comparison:
    """A bundle against the checkpoint on the same texts. Probability changes are absolute, over all classes.

    ``batch_effect``: largest change of a probability between a text scored alone and in a full batch. ``accuracy`` and
    ``macro_f1`` are pairs (checkpoint, bundle), None without labels. ``finite``: False for a bundle that gives a NaN or
    an infinity; then nothing else is measured, and the other figures are the worst there are.
    """

    texts: int
    flips: int
    max_change: float
    mean_change: float
    batch_effect: float
    accuracy: tuple[float, float] | None = None
    macro_f1: tuple[float, float] | None = None
    finite: bool = True

    @property
    def drop(self) -> float:
        """Accuracy lost, in points."""
        return 100 * (self.accuracy[0] - self.accuracy[1]) if self.accuracy else 0.0

    def failures(self, limits: Limits) -> list[str]:
        """Each limit that is exceeded, in words; empty if the bundle may be written."""
        if not self.finite:
            return ["it gives scores that are not finite numbers"]
        one = 100 / self.texts
        found = []
        if self.drop > max(limits.max_drop, one) + 1e-9:
            found.append(f"accuracy drops {self.drop:.2f} points (limit {limits.max_drop:g}: --max-drop)")
        few = max(1, min(FEW_FLIPS, self.texts // 50))
        if self.flips > few and 100 * self.flips / self.texts > limits.max_flips + 1e-9:
            share = 100 * self.flips / self.texts
            found.append(
                f"{self.flips} of {self.texts} labels flip, {share:.2f} % (limit {limits.max_flips:g} %: --max-flips)"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"drop_points": self.drop}


def reference_probs(model: PreTrainedModel, settings: Settings, directory: Path, texts: Sequence[str]) -> np.ndarray:
    """Probabilities float32 [n, k] by PyTorch in fp32: what the checkpoint in ``directory`` says."""
    tokenizer = (directory / settings.tokenizer.file).read_bytes()
    encoded = Tokenizer(settings.tokenizer, tokenizer, settings.max_tokens).encode(texts)
    logits = np.zeros((len(texts), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for batch in plan(encoded.lengths, 2048):
            ids, mask = encoded.padded(batch.rows, batch.width, settings.tokenizer.pad_id)
            output = model(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long())
            logits[batch.rows] = output.logits.numpy()
    scaled = logits / settings.temperature
    if settings.ngram_weight:
        ngrams = NgramModel.from_bytes((directory / NGRAMS).read_bytes(), model.config.num_labels)
        scaled += settings.ngram_weight * ngrams.logits(texts)
    return softmax(scaled)


def compare(bundle: Bundle, texts: Sequence[str], reference: np.ndarray, gold: np.ndarray | None) -> Comparison:
    """Score ``texts`` with ``bundle`` and hold them against ``reference`` [n, k] (and ``gold`` [n], where known)."""
    try:
        with Scorer.load(bundle, device="cpu") as scorer:
            probs = scorer.score(texts).probs
    except BundleError:  # the bundle has just been written and loaded: what is wrong is a logit
        return Comparison(len(texts), len(texts), 1.0, 1.0, 1.0, finite=False)
    with Scorer.load(bundle, device="cpu", token_budget=1) as alone:
        row_of = {text: row for row, text in enumerate(texts)}
        sample = list(row_of)[:BATCH_EFFECT_TEXTS]
        rows = [row_of[text] for text in sample]
        effect = float(np.abs(alone.score(sample).probs - probs[rows]).max())
    change = np.abs(probs - reference)
    accuracy = macro_f1 = None
    if gold is not None:
        before, after = (evaluate(scores, gold, bundle.labels) for scores in (reference, probs))
        accuracy = (before["accuracy"], after["accuracy"])
        macro_f1 = (before["macro_f1"], after["macro_f1"])
    flips = int((probs.argmax(axis=1) != reference.argmax(axis=1)).sum())
    return Comparison(len(texts), flips, float(change.max()), float(change.mean()), effect, accuracy, macro_f1)
