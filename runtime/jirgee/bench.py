"""How fast a bundle is on this machine: throughput over many texts, latency of one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle
from .errors import optional_import
from .machine import describe, peak_rss
from .providers import onnxruntime
from .scorer import Scorer

PROBE_SEED = 1


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
    path: Path, texts: Sequence[str], device: str = "auto", threads: int | None = None, rounds: int = 3
) -> dict[str, Any]:
    """Measure the bundle at ``path`` on ``texts`` (repeats are dropped). Times include tokenising."""
    began = time.perf_counter()
    bundle = Bundle.load(path)
    texts = list(dict.fromkeys(texts))
    with Scorer.load(bundle, device, threads) as scorer:
        scorer.score(texts[:1])
        cold_start = time.perf_counter() - began
        scorer.score(texts[:64])
        rates = []
        for _ in range(rounds):
            start = time.perf_counter()
            scorer.score(texts)
            rates.append(len(texts) / (time.perf_counter() - start))
        latencies = []
        for text in (texts * (1 + 100 // len(texts)))[:100]:
            start = time.perf_counter()
            scorer.score([text])
            latencies.append(1000 * (time.perf_counter() - start))
        lengths = scorer.tokenizer.encode(texts).lengths
        p50, p95, p99 = (float(np.percentile(latencies, p)) for p in (50, 95, 99))
        return {
            "bundle": str(path),
            "recipe": bundle.recipe,
            "size_bytes": bundle.size,
            "texts": len(texts),
            "tokens_per_text": float(lengths.mean()),
            "texts_per_second": float(np.median(rates)),
            "rounds": rates,
            "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
            "cold_start_s": cold_start,
            "peak_rss_bytes": peak_rss(),
            "device": scorer.device,
            "threads": scorer.threads,
            "machine": describe(),
            "onnxruntime": onnxruntime().__version__,
        }
