"""The gate: is the bundle as good as the checkpoint? Measured on texts, compared with PyTorch in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jirgee.errors import BundleError
from jirgee.metrics import evaluate
from jirgee.scorer import Scorer

from .effects import Effect, effects

FEW_FLIPS = 3  # of 180 texts 1 % are less than two: chance alone would refuse a good bundle


@dataclass(frozen=True)
class Limits:
    """What an export may lose. Shares are of the held-out texts; one more wrong label is always allowed, and one
    changed label (three from 150 texts on), so that a small file does not ask for more than it can measure.

    ``max_drop``: accuracy, in points. ``max_flips``: share of texts whose label changes, in percent.
    ``max_batch_effect``: change of a probability by what a text was scored with.
    """

    max_drop: float = 0.5
    max_flips: float = 1.0
    max_batch_effect: float = 0.02


@dataclass(frozen=True)
class Comparison:
    """A bundle against the checkpoint on the same texts. Probability changes are absolute, over all classes.

    ``effects``: way of scoring -> what it changed (``effects.py``). ``accuracy``, ``macro_f1``, ``ece`` (calibration
    error) and the values of ``recall`` (by label) are pairs (checkpoint, bundle); None, or empty, without labels.
    ``finite``: False for a bundle that gives a NaN or an infinity; then nothing else is measured, and the other figures
    are the worst there are.
    """

    texts: int
    flips: int
    max_change: float
    mean_change: float
    effects: dict[str, Effect] = field(default_factory=dict)
    accuracy: tuple[float, float] | None = None
    macro_f1: tuple[float, float] | None = None
    ece: tuple[float, float] | None = None
    recall: dict[str, tuple[float, float]] = field(default_factory=dict)
    finite: bool = True

    @property
    def drop(self) -> float:
        """Accuracy lost, in points."""
        return 100 * (self.accuracy[0] - self.accuracy[1]) if self.accuracy else 0.0

    @property
    def batch_effect(self) -> float:
        """Largest change of a probability by batch-mates, padding or threads; 1 if the scores are not finite."""
        return max((effect.change for effect in self.effects.values()), default=0.0) if self.finite else 1.0

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
        if self.batch_effect > limits.max_batch_effect:
            way = max(self.effects, key=lambda name: self.effects[name].change)
            found.append(
                f"scored {WORDS[way]} a probability changes by {self.batch_effect:.3f} "
                f"(limit {limits.max_batch_effect:g}: --max-batch-effect)"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"drop_points": self.drop, "batch_effect": self.batch_effect}


WORDS = {
    "alone": "alone",
    "mates": "with other batch-mates",
    "wide": "in a wide batch",
    "threads": "by another number of threads",
}


def compare(
    scorer: Scorer,
    texts: Sequence[str],
    reference: np.ndarray,
    gold: np.ndarray | None = None,
    unlabelled: Sequence[str] = (),
) -> Comparison:
    """Score ``texts`` and hold them against ``reference`` [n, k] (and ``gold`` int [n], where known).

    ``unlabelled``: texts on which batch-mates are tried, by default ``texts`` themselves.
    """
    try:
        probs = scorer.score(texts).probs
        found = effects(scorer, unlabelled or texts)
    except BundleError:  # the bundle has just been written and loaded: what is wrong is a logit
        return Comparison(len(texts), len(texts), 1.0, 1.0, finite=False)
    change = np.abs(probs - reference)
    flips = int((probs.argmax(axis=1) != reference.argmax(axis=1)).sum())
    figures = (len(texts), flips, float(change.max()), float(change.mean()), found)
    if gold is None:
        return Comparison(*figures)
    before, after = (evaluate(scores, gold, scorer.bundle.labels) for scores in (reference, probs))
    pairs: dict[str, Any] = {name: (before[name], after[name]) for name in ("accuracy", "macro_f1", "ece")}
    recall = {
        label: (before["per_class"][label]["recall"], after["per_class"][label]["recall"])
        for label in scorer.bundle.labels
    }
    return Comparison(*figures, **pairs, recall=recall)
