"""``jirgee bench``: how fast a bundle is on this machine, by the measures of the project's benchmark.

Throughput on different texts and on the file as it is, where repeats are computed once; latency of one text; and, in
fresh processes, the time from starting the process to the first score and what it takes of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle
from .command import Command, device_arguments, positive
from .errors import InputError, MachineError, optional_import
from .labelled import checked_text
from .machine import describe, peak_rss
from .providers import choose_device, onnxruntime
from .rows import Reject, read_rows
from .scorer import Scorer

PROBE_SEED = 1
PROBE_TEXTS = 1000
SINGLES = 100  # texts scored alone, at most
COLD_STARTS = 3
STARTED = "JIRGEE_BENCH_STARTED"


def probe_texts(tokenizer: bytes, count: int, longest: int = 60) -> list[str]:
    """Texts strung together from 3 to ``longest`` random pieces of a tokenizer file, the same on every call."""
    rng = np.random.default_rng(PROBE_SEED)
    if tokenizer.startswith(b"{"):  # a tokenizer.json
        words = optional_import("tokenizers", "tokenizers", "a tokenizer.json").Tokenizer.from_buffer(tokenizer)
        size = words.get_vocab_size()
        return [words.decode(rng.choice(size, rng.integers(3, longest)).tolist()) for _ in range(count)]
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_proto=tokenizer)
    ids = [i for i in range(pieces.get_piece_size()) if not (pieces.is_control(i) or pieces.is_unknown(i))]
    return [pieces.decode(rng.choice(ids, rng.integers(3, longest)).tolist()) for _ in range(count)]


def bench(
    path: Path,
    texts: Sequence[str],
    device: str = "auto",
    threads: int | None = None,
    rounds: int = 3,
    cold_starts: int = COLD_STARTS,
) -> dict[str, Any]:
    """Measure the bundle at ``path`` on ``texts``, [n] in the order of their file. Times include tokenising.

    Rates are texts a second, the median of ``rounds``, in turn on the different texts and on all of them; if none is
    repeated, the two are one. ``cold_start_s`` and ``cold_rss_bytes``: from starting a process to its first score, the
    median of ``cold_starts``. ``peak_rss_bytes``: of this process after everything.
    """
    bundle = Bundle.load(path)
    device = choose_device(device)
    texts = list(texts)
    different = list(dict.fromkeys(texts))
    cold = [cold_start(path, different[0], device, threads) for _ in range(cold_starts)]
    with Scorer.load(bundle, device, threads, cache_texts=0) as scorer:
        scorer.score(different[:64])
        rates, file_rates = [], []
        for _ in range(rounds):
            rates.append(_rate(scorer, different))
            if len(different) < len(texts):
                file_rates.append(_rate(scorer, texts))
        latencies = []
        for text in (different * (1 + SINGLES // len(different)))[:SINGLES]:
            start = time.perf_counter()
            scorer.score([text])
            latencies.append(1000 * (time.perf_counter() - start))
        lengths = scorer.tokenizer.encode(different).lengths
        return {
            "bundle": str(path),
            "recipe": bundle.recipe,
            "size_bytes": bundle.size,
            "texts": len(different),
            "rows": len(texts),
            "tokens_per_text": float(lengths.mean()),
            "texts_per_second": float(np.median(rates)),
            "rounds": rates,
            "rows_per_second": float(np.median(file_rates or rates)),
            "row_rounds": file_rates or rates,
            "latency_ms": {f"p{p}": float(np.percentile(latencies, p)) for p in (50, 95, 99)},
            "cold_start_s": float(np.median([seconds for seconds, _ in cold])) if cold else None,
            "cold_rss_bytes": max(memory for _, memory in cold) if cold else None,
            "peak_rss_bytes": peak_rss(),
            "device": scorer.device,
            "threads": scorer.threads,
            "machine": describe(),
            "onnxruntime": onnxruntime().__version__,
        }


def _rate(scorer: Scorer, texts: Sequence[str]) -> float:
    start = time.perf_counter()
    scorer.score(texts)
    return len(texts) / (time.perf_counter() - start)


def cold_start(path: Path, text: str, device: str, threads: int | None) -> tuple[float, int]:
    """Seconds from starting a process to its first score, and that process's peak memory in bytes."""
    job = json.dumps({"path": str(path), "text": text, "device": device, "threads": threads})
    command = [sys.executable, "-c", "from jirgee.bench import first_score; first_score()"]
    env = os.environ | {STARTED: str(time.monotonic_ns())}
    done = subprocess.run(command, input=job, env=env, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MachineError(f"a fresh process could not score: {lines[-1]}")
    found = json.loads(done.stdout)
    return found["seconds"], found["memory"]


def first_score() -> None:
    """What the fresh process does: load, score one text, say when and with how much memory (JSON on stdout)."""
    job = json.loads(sys.stdin.buffer.read())
    with Scorer.load(job["path"], job["device"], job["threads"]) as scorer:
        scorer.score([job["text"]])
        seconds = (time.monotonic_ns() - int(os.environ[STARTED])) / 1e9
    print(json.dumps({"seconds": seconds, "memory": peak_rss()}))


# --- the command -------------------------------------------------------------------------------------------------


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", nargs="?", type=Path, help="file of texts (default: texts of random pieces)")
    parser.add_argument("--text-column", default="text", metavar="NAME")
    parser.add_argument("--limit", type=positive, metavar="ROWS", help="take only the file's first rows")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="how often each rate is measured")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    device_arguments(parser)


def _run(args: Namespace) -> int:
    bundle = Bundle.load(args.bundle)
    if args.input:
        texts = []
        for row in read_rows(args.input):
            if not isinstance(row, Reject):
                texts.append(checked_text(row.record, args.text_column, args.input, row.line))
            if len(texts) == args.limit:
                break
        if not texts:
            raise InputError("holds no texts", args.input)
    else:
        texts = probe_texts(bundle.read(bundle.tokenizer.file), args.limit or PROBE_TEXTS)
    figures = bench(args.bundle, texts, args.device, args.threads, args.rounds)
    print(json.dumps(figures, ensure_ascii=False) if args.json else told(figures))
    return 0


def told(figures: dict[str, Any]) -> str:
    """The figures for people."""
    latency, low, high = figures["latency_ms"], min(figures["rounds"]), max(figures["rounds"])
    lines = [
        f"{figures['texts']:,} different texts of {figures['tokens_per_text']:.1f} tokens, {figures['device']}, "
        f"{figures['threads']} threads, {figures['machine']['cpu']}",
        f"recipe        {figures['recipe']}, {figures['size_bytes'] / 1e6:.1f} MB",
        f"throughput    {figures['texts_per_second']:,.0f} texts/s ({low:,.0f} to {high:,.0f})",
    ]
    if repeats := figures["rows"] - figures["texts"]:
        lines.append(
            f"as it is      {figures['rows_per_second']:,.0f} texts/s on {figures['rows']:,} rows, "
            f"{repeats / figures['rows']:.0%} of them repeats"
        )
    lines.append(f"one text      p50 {latency['p50']:.2f} ms, p95 {latency['p95']:.2f} ms, p99 {latency['p99']:.2f} ms")
    if figures["cold_start_s"] is not None:
        lines.append(
            f"cold start    {figures['cold_start_s']:.2f} s from starting a process to its first score, "
            f"{figures['cold_rss_bytes'] / 2**20:.0f} MiB"
        )
    lines.append(f"peak memory   {figures['peak_rss_bytes'] / 2**20:.0f} MiB, texts of this run included")
    return "\n".join(lines)


BENCH = Command(
    "measure a bundle's speed on this machine",
    _arguments,
    _run,
    epilog="example: jirgee bench bundle samples/tweets.csv",
)
