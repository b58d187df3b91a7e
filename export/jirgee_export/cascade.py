"""A cascade: a small model answers where it is sure, a large one the rest, in one bundle.

The small model's confidence above which it answers is chosen on texts that neither was trained on, so that its label
is the large model's for at least the asked share of all texts. Not the share seen on the sample decides but a bound
that the true one keeps with 95 % (Clopper and Pearson 1934); candidates are tried from the strictest on until the
first that fails, so that trying many does not weaken the bound (fixed sequence testing, as in Learn then Test,
Angelopoulos et al. 2021, arXiv:2110.01052).
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps, loads
from pathlib import Path

import numpy as np

from jirgee.bench import probe_texts
from jirgee.bundle import CARD, GOLDEN, LARGE, MODEL, NGRAMS, REPORT, Bundle, write
from jirgee.errors import GateError, InputError
from jirgee.golden import COUNT, RANDOM, record
from jirgee.machine import describe
from jirgee.manifest import CASCADE_KEYS
from jirgee.scorer import Scorer

CONFIDENCE = 0.95
CANDIDATES = 200  # shares of the texts that the small model might answer, evenly spaced
ROUNDS = 3


@dataclass(frozen=True)
class Choice:
    """``threshold``: the small model answers from this confidence on. ``answered``: the share of texts it then answers.
    ``agreement``: share of all texts with the large model's label, as seen; ``at_least``: its lower 95 % bound.
    """

    threshold: float
    answered: float
    agreement: float
    at_least: float


def most_wrong(wrong: int, count: int, confidence: float = CONFIDENCE) -> float:
    """Upper Clopper-Pearson bound of a share of which ``wrong`` of ``count`` were seen."""
    if wrong >= count:
        return 1.0

    def at_most_seen(share: float) -> float:
        """Probability of ``wrong`` or fewer of ``count``."""
        terms = [
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(share)
            + (count - k) * math.log1p(-share)
            for k in range(wrong + 1)
        ]
        return sum(map(math.exp, terms))

    low, high = wrong / count or 1e-12, 1 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most_seen(middle) > 1 - confidence else (low, middle)
    return high


def choose(small: np.ndarray, large: np.ndarray, agreement: float) -> Choice | None:
    """The lowest threshold that keeps ``agreement`` (0..1), from the probabilities [n, k] of both on the same texts.
    None if even the strictest does not: the sample is too small or the models differ too much.
    """
    count = len(small)
    confidence = small.max(axis=1)
    differs = small.argmax(axis=1) != large.argmax(axis=1)
    found = None
    for share in np.arange(1, CANDIDATES + 1) / CANDIDATES:
        # a number that survives JSON and float32 alike
        threshold = float(np.float32(np.quantile(confidence, 1 - share)))
        answered = confidence >= threshold
        wrong = int((differs & answered).sum())
        worst = most_wrong(wrong, count)
        if worst > 1 - agreement:
            break
        found = Choice(threshold, float(answered.mean()), 1 - wrong / count, 1 - worst)
    return found


def checked_on_halves(small: np.ndarray, large: np.ndarray, agreement: float) -> dict[str, float] | None:
    """Choose on one half, measure on the other, both ways round: what the choice is worth on texts it has not seen."""
    kept, answered = [], []
    for half in (0, 1):
        choice = choose(small[half::2], large[half::2], agreement)
        if choice is None:
            return None
        other = slice(1 - half, None, 2)
        sure = small[other].max(axis=1) >= choice.threshold
        kept.append(np.where(sure, small[other].argmax(axis=1) == large[other].argmax(axis=1), True).mean())
        answered.append(sure.mean())
    return {"agreement": float(np.mean(kept)), "answered": float(np.mean(answered))}


def combine(
    small: Bundle, large: Bundle, texts: Sequence[str], agreement: float, out: Path, overwrite: bool = False
) -> tuple[Bundle, dict]:
    """Write the cascade of two bundles with the same labels to ``out``; returns it and its report.

    ``texts``: held out from the training of both; repeats are dropped. Raises InputError for bundles that do not go
    together, GateError if no threshold keeps the agreement; then nothing is written.
    """
    for bundle in (small, large):
        if bundle.cascade:
            raise InputError("is a cascade itself; give the models it was made of", bundle.path)
    if small.labels != large.labels:
        raise InputError(
            f"has the labels {', '.join(small.labels)}, the large model {', '.join(large.labels)}", small.path
        )
    texts = list(dict.fromkeys(texts))
    if not texts:
        raise GateError("--cascade needs texts to choose its threshold on, and there are none")
    with Scorer.load(small, "cpu") as one, Scorer.load(large, "cpu") as other:
        quick, slow = one.score(texts).probs, other.score(texts).probs
    choice = choose(quick, slow, agreement)
    if choice is None:
        alike = float((quick.argmax(axis=1) == slow.argmax(axis=1)).mean())
        raise GateError(
            f"no threshold keeps an agreement of {agreement:g} with 95 % confidence on {len(texts)} texts (the small "
            f"model alone agrees on {alike:.4f}); give more texts, a better student, or a lower --agreement"
        )
    near = np.abs(quick.max(axis=1) - choice.threshold) <= small.tolerance
    jump = float(np.abs(quick[near] - slow[near]).max()) if near.any() else 0.0
    facts = {key: getattr(large, key) for key in CASCADE_KEYS if key != "threshold"}
    files: dict[str, bytes | Path] = {
        name: small.read(name) for name in small.files if name not in (REPORT, CARD, GOLDEN)
    }
    named = large.tokenizer.file
    if small.files.get(named) != large.files[named]:  # else both read one file
        files[LARGE + named] = large.read(named)
        facts["tokenizer"] = replace(large.tokenizer, file=LARGE + named)
    files |= {LARGE + name: large.read(name) for name in (MODEL, NGRAMS) if name in large.files}
    fields = small.facts | {
        "cascade": facts | {"threshold": choice.threshold},
        "tolerance": min(1.0, max(small.tolerance, large.tolerance, math.ceil(jump * 1000) / 1000)),
    }
    with tempfile.TemporaryDirectory(prefix="jirgee-cascade-") as work:
        trial = write(Path(work) / "trial", files, **fields)
        report = {
            "asked": agreement,
            "texts": len(texts),
            **asdict(choice),
            "halves": checked_on_halves(quick, slow, agreement),
            **_measure(trial, large, texts, slow),
        }
        parts = [loads(bundle.read(REPORT)) if REPORT in bundle.files else {} for bundle in (small, large)]
        files[REPORT] = (dumps({**parts[0], "cascade": report, "large": parts[1]}, indent=1) + "\n").encode()
        files[GOLDEN] = record(trial, probe_texts(small.read(small.tokenizer.file), COUNT), RANDOM).to_bytes()
    files[CARD] = _card(small, large, report).encode()
    return write(out, files, overwrite=overwrite, **fields), report


def _measure(cascade: Bundle, large: Bundle, texts: list[str], reference: np.ndarray) -> dict:
    """Speed in interleaved rounds, as the ratio of processor time and of wall time; and the labels once more."""
    seconds: dict[str, list[tuple[float, float]]] = {"large": [], "cascade": []}
    with Scorer.load(cascade, "cpu") as both, Scorer.load(large, "cpu") as alone:
        scored = both.score(texts)  # which opens its large model too
        for _ in range(ROUNDS):
            for name, scorer in (("large", alone), ("cascade", both)):
                wall, used = time.perf_counter(), time.process_time()
                scorer.score(texts)
                seconds[name].append((time.process_time() - used, time.perf_counter() - wall))
    used, wall = (
        statistics.median(slow[kind] / quick[kind] for slow, quick in zip(*seconds.values(), strict=True))
        for kind in (0, 1)
    )
    return {
        "agreement_measured": float((scored.probs.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        "deferred": scored.deferred / len(texts),
        "times_as_fast": used,
        "times_as_fast_by_the_clock": wall,
        "machine": describe(),
    }


def _card(small: Bundle, large: Bundle, report: dict) -> str:
    return f"""# {", ".join(small.labels)}

A cascade of two text classifiers with {len(small.labels)} labels, made by jirgee: the small one answers where it is at
least {report["threshold"]:.4f} sure, the large one the rest.

```
jirgee score BUNDLE texts.csv -o scored.csv
```

On {report["texts"]} held-out texts, against the large model alone:

- same label: {report["agreement_measured"]:.4f} (at least {report["at_least"]:.4f} with 95 % confidence)
- answered by the small model: {1 - report["deferred"]:.1%}
- speed: {report["times_as_fast"]:.1f} times the large model's

Small: recipe `{small.recipe}`; large: recipe `{large.recipe}`.
"""
