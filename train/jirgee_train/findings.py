"""Everything that an honest report of a training run says, as one JSON object: ``report.json``.

The page (``report_page.py``) and the model card (``card.py``) are drawn from it and from nothing else.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.errors import MissingPackage
from jirgee.machine import describe
from jirgee.metrics import evaluate
from jirgee.tokens import Tokenizer

from . import card, hygiene, report_page
from .calibrate import Mix
from .data import Dataset
from .recipe import Recipe
from .report import Judged
from .slices import cut

BINS = 15  # of confidence, as in the calibration error
MISTAKES = 20
DRAWS = 2000  # of the bootstrap
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Run:
    """How it was trained. ``history``: the Trainer's log. ``seconds``: of the training loop."""

    recipe: Recipe
    mix: Mix
    steps: int
    seconds: float
    history: list[dict[str, Any]]


def findings(judged: Judged, data: Dataset, run: Run, tokenizer: Tokenizer) -> dict[str, Any]:
    """The report. Intervals are 95 %, by bootstrap over dev rows; rows that belong together are drawn together."""
    classes, gold = data.classes, data.dev.indices(data.classes)
    units = np.arange(len(gold)) if data.dev_units is None else data.dev_units
    parts = {"TF-IDF + logistic regression": judged.tfidf, "encoder": judged.encoder}
    if judged.ngrams is not None:
        parts |= {"n-grams": judged.ngrams, "hybrid": judged.final}
    hits = {name: (probs.argmax(axis=1) == gold).astype(float) for name, probs in parts.items()}
    hit, hit_tfidf = (probs.argmax(axis=1) == gold for probs in (judged.final, judged.tfidf))
    gain = hit.astype(float) - hit_tfidf
    encoded = tokenizer.encode(data.dev.texts)
    return {
        "format": 1,
        "classes": classes,
        "labels": {name: dict(Counter(part.labels)) for name, part in (("train", data.train), ("dev", data.dev))},
        "figures": evaluate(judged.final, gold, classes) | {"accuracy_interval": interval(hit.astype(float), units)},
        "parts": {
            name: {key: value for key, value in evaluate(probs, gold, classes).items() if key != "confusion"}
            | {"accuracy_interval": interval(hits[name], units)}
            for name, probs in parts.items()
        },
        "gain_over_tfidf": {"accuracy": float(gain.mean()), "interval": interval(gain, units)},
        "calibration": {
            "temperature": run.mix.temperature,
            "ngram_weight": run.mix.ngram_weight,
            "ece_before": evaluate(judged.encoder, gold, classes)["ece"],
            "ece_after": evaluate(judged.final, gold, classes)["ece"],
            "before": reliability(judged.encoder, gold),
            "after": reliability(judged.final, gold),
        },
        "history": run.history,
        "slices": {
            name: {
                part: {
                    "n": int(rows.sum()),
                    "accuracy": float(hit[rows].mean()),
                    "accuracy_interval": wilson(int(hit[rows].sum()), int(rows.sum())),
                    "tfidf_accuracy": float(hit_tfidf[rows].mean()),
                }
                for part, rows in slices.items()
            }
            for name, slices in cut(data.dev.texts, encoded, tokenizer.spec).items()
        },
        "mistakes": mistakes(judged.final, data),
        "hygiene": data.hygiene.to_json(),
        "tokens": {
            "limit": tokenizer.max_tokens,
            "train": hygiene.lengths(tokenizer.encode(data.train.texts)),
            "dev": hygiene.lengths(encoded),
        },
        "recipe": asdict(run.recipe),
        "run": {"steps": run.steps, "seconds": round(run.seconds, 1), "made": _now(), **_machine()},
    }


def interval(values: np.ndarray, units: np.ndarray) -> list[float]:
    """95 % interval of the mean of ``values`` float [n] by the percentile bootstrap (Efron 1979).

    Drawn are whole ``units`` int [n], such as all reposts of one tweet, because their rows are right or wrong together.
    """
    _, unit = np.unique(units, return_inverse=True)
    total, count = np.bincount(unit, values), np.bincount(unit)
    rng = np.random.default_rng(0)
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = rng.integers(0, len(count), len(count))
        means[draw] = total[drawn].sum() / count[drawn].sum()
    return np.percentile(means, [2.5, 97.5]).tolist()


def wilson(hits: int, n: int) -> list[float]:
    """95 % interval of a share (Wilson 1927), sound also for the few rows of a slice, where a bootstrap is not."""
    share, z = hits / n, 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return [max(0.0, middle - half), min(1.0, middle + half)]


def reliability(probs: np.ndarray, gold: np.ndarray) -> list[dict[str, float]]:
    """Bins of equal width with rows in them: mean confidence, accuracy and number of rows."""
    confidence, hit = probs.max(axis=1), probs.argmax(axis=1) == gold
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "confidence": float(confidence[place == at].mean()),
            "accuracy": float(hit[place == at].mean()),
            "n": int((place == at).sum()),
        }
        for at in sorted(set(place.tolist()))
    ]


def mistakes(probs: np.ndarray, data: Dataset) -> list[dict[str, Any]]:
    """The wrong predictions that the model is surest of, each text once: often they are wrong labels."""
    gold, predicted = data.dev.indices(data.classes), probs.argmax(axis=1)
    found: dict[str, dict[str, Any]] = {}
    for row in np.argsort(-probs.max(axis=1), kind="stable").tolist():
        text, (path, line) = data.dev.texts[row], data.dev.where[row]
        if predicted[row] != gold[row] and len(found) < MISTAKES:
            found.setdefault(
                text,
                {
                    "text": text,
                    "label": data.classes[gold[row]],
                    "predicted": data.classes[predicted[row]],
                    "score": float(probs[row].max()),
                    "where": f"{path.name}:{line}",
                },
            )
    return list(found.values())


def write(report: dict[str, Any], out: Path) -> None:
    """``report.json``, ``README.md`` and, where matplotlib is installed, ``report.html`` into the directory ``out``."""
    _write_text(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    _write_text(out / "README.md", card.render(report))
    try:
        page = report_page.render(report)
    except MissingPackage:
        return  # the command says how to have it
    _write_text(out / "report.html", page)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace")  # half an emoji, cut by some API, has no UTF-8 form


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": describe(),
        "versions": {name: importlib.metadata.version(name) for name in ("jirgee", *PACKAGES)},
    }
