"""How fast and how large bundles are on this machine, measured so that they can be compared.

Recipes are measured in turn, round after round, and time is processor time: on a machine that does other things too a
clock on the wall measures those. Memory is measured in a process of its own for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jirgee.scorer import Scorer

ROUNDS = 3
ROUND_SECONDS = 0.6  # of processor time that the slowest recipe may take in a round
MOST_TEXTS, SINGLES = 256, 24


@dataclass(frozen=True)
class Speed:
    """``rate``: texts a second with ``threads`` threads that have a processor each. ``p50_ms``: one text, from call to
    score. ``rss``: peak memory of a process that has scored the texts, in bytes (0 where it is not told).
    """

    rate: float
    p50_ms: float
    rss: int = 0

    def with_memory(self, rss: int) -> Speed:
        return replace(self, rss=rss)


def speeds(scorers: Mapping[str, Scorer], texts: Sequence[str]) -> dict[str, Speed]:
    """Speed of each open scorer on ``texts`` (repeats are dropped), without memory."""
    distinct = list(dict.fromkeys(texts))[:MOST_TEXTS]
    slowest = max(_seconds(scorer, distinct[:8]) for scorer in scorers.values()) / len(distinct[:8])
    sample = distinct[: int(np.clip(ROUND_SECONDS / max(slowest, 1e-9), 8, len(distinct)))]
    singles = (sample * (1 + SINGLES // len(sample)))[:SINGLES]
    best = dict.fromkeys(scorers, float("inf"))
    for _ in range(ROUNDS):
        for name, scorer in scorers.items():
            best[name] = min(best[name], _seconds(scorer, sample))
    return {
        name: Speed(
            rate=scorer.threads * len(sample) / best[name],
            p50_ms=1000 * float(np.median([_seconds(scorer, [text]) for text in singles])),
        )
        for name, scorer in scorers.items()
    }


def _seconds(scorer: Scorer, texts: Sequence[str]) -> float:
    began = time.process_time()
    scorer.score(texts)
    return max(time.process_time() - began, 1e-9)


def resident(bundle: Path, texts: Sequence[str]) -> int:
    """Peak memory in bytes of a new process that loads ``bundle`` and scores ``texts``."""
    code = (
        "import json, sys\n"
        "from jirgee.machine import peak_rss\n"
        "from jirgee.scorer import Scorer\n"
        "with Scorer.load(sys.argv[1], 'cpu') as scorer:\n"
        "    scorer.score(json.load(sys.stdin))\n"
        "print(peak_rss())\n"
    )
    given = json.dumps(list(texts)).encode()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(bundle)], input=given, capture_output=True)
    return int(done.stdout or 0) if done.returncode == 0 else 0
