"""What ``gpu.sh`` runs: scores of each GPU device against the CPU's, with and without bound buffers, and their speed.

A device that does not start is an entry with its error. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jirgee import Bundle, JirgeeError, Scorer, __version__
from jirgee.machine import describe
from jirgee.providers import DEVICES, onnxruntime
from jirgee.rows import Row, read_rows

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "train.tsv"
BUDGETS = (1024, 4096, 16384, 65536)  # tokens of a batch
LIMITS = {"fp32": 1e-3}  # by recipe: how far a probability may be from the CPU's
LIMIT = 2e-2  # of fewer bits
ROUNDS, SINGLES, WARM = 5, 500, 50


def measure(
    bundle: Bundle, texts: Sequence[str], expected: np.ndarray, device: str, bound: bool, budget: int, **counts: int
) -> dict[str, Any]:
    """One setting: agreement with ``expected`` [n, k], texts a second (median of rounds), milliseconds of single texts.

    ``counts``: rounds and singles, if not ROUNDS and SINGLES. Raises JirgeeError where the device cannot be used.
    """
    with Scorer.load(bundle, device, token_budget=budget) as scorer:
        if not bound:
            scorer._bound = None
        began = time.perf_counter()
        probs = scorer.score(texts).probs  # captures graphs, builds engines
        first = time.perf_counter() - began
        seconds = [_timed(scorer, texts) for _ in range(counts.get("rounds", ROUNDS))]
        singles = [texts[i % len(texts)] for i in range(counts.get("singles", SINGLES) + WARM)]
        latency = np.array([_timed(scorer, [text]) for text in singles][WARM:]) * 1000
        again = scorer.score(texts).probs
        change = np.abs(probs - expected).max()
        return {
            "device": device,
            "bound": bound,
            "pinned": bool(scorer._bound and scorer._bound.pinned),
            "token_budget": budget,
            "max_change": float(change),
            "flips": int((probs.argmax(axis=1) != expected.argmax(axis=1)).sum()),
            "max_change_again": float(np.abs(again - probs).max()),
            "first_seconds": first,
            "texts_per_second": len(texts) / statistics.median(seconds),
            "rounds": seconds,
            "latency_ms": {f"p{share}": float(np.percentile(latency, share)) for share in (50, 99)},
        }


def _timed(scorer: Scorer, texts: Sequence[str]) -> float:
    began = time.perf_counter()
    scorer.score(texts)
    return time.perf_counter() - began


def settings() -> list[tuple[str, bool, int]]:
    """(device, bound, budget): every device but the CPU; graphs live in bound buffers, so they need them."""
    devices = [device for device in DEVICES if device != "cpu"]
    return [
        (device, bound, budget)
        for device in devices
        for bound in ((True,) if device == "cuda-graph" else (True, False))
        for budget in BUDGETS
    ]


def read_texts(path: Path) -> list[str]:
    texts = [row.record["text"] for row in read_rows(path) if isinstance(row, Row)]
    return list(dict.fromkeys(texts))


def compare(path: Path, texts: Sequence[str]) -> dict[str, Any]:
    """All settings of one bundle."""
    bundle = Bundle.load(path)
    limit = LIMITS.get(bundle.recipe, LIMIT)
    with Scorer.load(bundle, "cpu") as scorer:
        expected = scorer.score(texts).probs
    found, failed = [], {}
    for device, bound, budget in settings():
        if device in failed:
            continue
        try:
            found.append(measure(bundle, texts, expected, device, bound, budget))
        except JirgeeError as error:
            failed[device] = str(error)
    far = [row for row in found if not (row["max_change"] <= limit and row["max_change_again"] <= limit)]
    return {
        "bundle": path.name,
        "recipe": bundle.recipe,
        "limit": limit,
        "passed": "cuda" not in failed and not far,
        "errors": failed,
        "settings": found,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("gpu.sh", description="check and measure bundles on this machine's NVIDIA GPU")
    parser.add_argument("bundle", nargs="+", type=Path)
    parser.add_argument("--texts", type=Path, default=SAMPLES, help='rows with a column "text" (default: the samples)')
    args = parser.parse_args(argv)
    try:
        texts = read_texts(args.texts)
        results = [compare(path, texts) for path in args.bundle]
    except JirgeeError as error:
        print(f"gpu.sh: {error}", file=sys.stderr)
        return 1
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    gpus = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    versions = {"jirgee": __version__, "onnxruntime": onnxruntime().__version__, "numpy": np.__version__}
    machine = describe() | {"gpus": gpus}
    print(json.dumps({"machine": machine, "versions": versions, "texts": len(texts), "bundles": results}))
    if bad := [row["bundle"] for row in results if not row["passed"]]:
        print(f"gpu.sh: not as on the CPU, or CUDA did not start: {', '.join(bad)}; see errors above", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
