"""Many threads, random lengths, for minutes: ``python -m benchmarks.soak BUNDLE --minutes 10``.

Every call's scores are held against those that its texts got alone, and resident memory is sampled once a second.
Exit code 1 if a score moved by more than the bundle's tolerance (and 1e-5), or if memory still grew after the first
fifth: by more than 5 % and more than the samples scatter.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jirgee.bench import probe_texts
from jirgee.bundle import Bundle
from jirgee.scorer import Scorer

TEXTS = 300  # different ones, of 1 to 200 pieces
LONGEST = 200
WARM_UP = 0.2  # of the samples: arenas grow to the largest batch first
GROWTH = 0.05


@dataclass
class Soak:
    """``worst``: the largest change of a probability against the same text alone. ``memory``: bytes, once a sample."""

    calls: int = 0
    texts: int = 0
    worst: float = 0.0
    memory: list[int] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Growth over the samples after the warm-up, as a share of their mean: the fitted line's, end less start."""
        kept = np.array(self.memory[int(len(self.memory) * WARM_UP) :], dtype=float)
        if len(kept) < 3:
            return 0.0
        return float(np.polyfit(np.arange(len(kept)), kept, 1)[0] * (len(kept) - 1) / kept.mean())

    @property
    def scatter(self) -> float:
        """Standard deviation of the samples after the warm-up around the line, as a share of their mean."""
        kept = np.array(self.memory[int(len(self.memory) * WARM_UP) :], dtype=float)
        if len(kept) < 3:
            return 0.0
        line = np.polyval(np.polyfit(np.arange(len(kept)), kept, 1), np.arange(len(kept)))
        return float((kept - line).std() / kept.mean())

    @property
    def grows(self) -> bool:
        return self.slope > max(GROWTH, 3 * self.scatter)


def resident() -> int:
    """Resident bytes of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def soak(bundle: Bundle, seconds: float, callers: int = 8, sample: float = 1.0, seed: int = 0) -> Soak:
    """Score random picks of texts from ``callers`` threads at once on one scorer."""
    texts = probe_texts(bundle.read(bundle.tokenizer.file), TEXTS, LONGEST)
    with Scorer.load(bundle, "cpu", token_budget=1) as alone:
        expected = alone.score(texts).probs
    result, lock, failures = Soak(), threading.Lock(), []
    with Scorer.load(bundle, "cpu") as scorer:
        end = time.monotonic() + seconds

        def call(number: int) -> None:
            rng = np.random.default_rng([seed, number])
            try:
                while time.monotonic() < end:
                    picked = rng.integers(0, TEXTS, rng.integers(1, 64))
                    change = np.abs(scorer.score([texts[i] for i in picked]).probs - expected[picked]).max()
                    with lock:
                        result.calls += 1
                        result.texts += len(picked)
                        result.worst = max(result.worst, float(change))
            except Exception as error:  # told by the main thread
                failures.append(error)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            result.memory.append(resident())
            time.sleep(sample)
        if failures:
            raise failures[0]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Concurrent calls of random lengths: same scores, flat memory.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--callers", type=int, default=8)
    args = parser.parse_args()
    bundle = Bundle.load(args.bundle)
    found = soak(bundle, 60 * args.minutes, args.callers)
    allowed = bundle.tolerance + 1e-5
    print(
        f"{found.calls} calls, {found.texts} texts, {args.callers} callers; largest change of a probability "
        f"{found.worst:.2g} (allowed {allowed:.2g}); memory {found.memory[-1] / 2**20:.0f} MiB at the end, "
        f"{found.slope:+.1%} after the warm-up (scatter {found.scatter:.1%})"
    )
    return int(found.worst > allowed or found.grows)


if __name__ == "__main__":
    sys.exit(main())
