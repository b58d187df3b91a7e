"""``jirgee tune``: which layout scores fastest on this machine, by trying them in turns for about a minute."""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from .bench import probe_texts
from .bundle import Bundle
from .command import Command
from .errors import InputError
from .labelled import checked_text
from .layout import Layout, candidates, default, remember
from .machine import cpu_count
from .rows import Reject, read_rows
from .scorer import Scorer

SECONDS = 60.0
ROUND_SECONDS = 1.0  # what a layout gets in one round
BETTER = 1.02  # than the default: less is noise


def tune(
    bundle: Bundle,
    texts: Sequence[str],
    layouts: Sequence[Layout],
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Layout, float]:
    """Texts a second of each layout: the median of rounds in which all of them take turns, so that a busy moment hits
    all alike. Each has a scorer of its own, all of them open at once. ``texts``: different ones; repeats are dropped.
    """
    texts = list(dict.fromkeys(texts))
    rates: dict[Layout, list[float]] = {layout: [] for layout in layouts}
    with ExitStack() as stack:
        scorers = {
            layout: stack.enter_context(Scorer.load(bundle, "cpu", layout=layout)) for layout in dict.fromkeys(layouts)
        }
        began = clock()
        first = next(iter(scorers.values()))
        first.score(texts[:32])
        start = clock()
        first.score(texts[:64])
        count = max(32, min(len(texts), int(len(texts[:64]) / max(clock() - start, 1e-6) * ROUND_SECONDS)))
        while not all(rates.values()) or clock() - began < seconds:
            for layout, scorer in scorers.items():
                start = clock()
                scorer.score(texts[:count])
                rates[layout].append(min(count, len(texts)) / max(clock() - start, 1e-9))
    return {layout: statistics.median(found) for layout, found in rates.items()}


def best(rates: dict[Layout, float], usual: Layout) -> Layout:
    """The fastest, unless the usual one is as good."""
    fastest = max(rates, key=lambda layout: rates[layout])
    return usual if rates[fastest] < BETTER * rates.get(usual, 0.0) else fastest


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", nargs="?", type=Path, help="file of texts like those to come (default: random pieces)")
    parser.add_argument("--text-column", default="text", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long to measure (default {SECONDS:g})")


def _tune(args: Namespace) -> int:
    bundle = Bundle.load(args.bundle)
    if args.input:
        rows = (row for row in read_rows(args.input) if not isinstance(row, Reject))
        texts = [checked_text(row.record, args.text_column, args.input, row.line) for row in rows]
        if not texts:
            raise InputError("holds no texts", args.input)
    else:
        texts = probe_texts(bundle.read(bundle.tokenizer.file), count=2000)
    usual = default("cpu")
    rates = tune(bundle, texts, list(dict.fromkeys([usual, *candidates(cpu_count())])), args.seconds)
    chosen = best(rates, usual)
    for layout, rate in sorted(rates.items(), key=lambda item: -item[1]):
        note = "  <- chosen" if layout == chosen else "  (default)" if layout == usual else ""
        print(
            f"{rate:9.1f} texts/s   {layout.workers} workers of {layout.inner} threads, "
            f"{layout.token_budget} tokens a batch{note}"
        )
    file = remember(bundle, chosen, {"texts_per_second": rates[chosen], "default": rates[usual]})
    print(f"kept in {file}; scoring with this bundle uses it unless --threads says otherwise")
    return 0


TUNE = Command(
    "find the fastest use of this machine's processors for a bundle, and keep it",
    _arguments,
    _tune,
    epilog="example: jirgee tune bundle samples/tweets.csv",
)
