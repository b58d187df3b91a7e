"""What the benchmark says of its rounds: pure arithmetic and text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.cases import SHAPES
from benchmarks.results import agreement, operations, ratio, summarise, table


def test_operations_of_bert_base_are_those_of_the_literature() -> None:
    """85 million weights behind the embeddings, two operations each, for 44 tokens, and the attention on top."""
    weights = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    attention = 12 * 4 * 44 * 44 * 768
    assert operations(SHAPES["bert-base"], [44]) == 2 * weights * 44 + attention


def test_operations_with_the_last_layer_cut() -> None:
    whole, cut = (operations(SHAPES["4x312"], [40], first_token) for first_token in (False, True))
    one_layer_behind_attention = 39 * 2 * (312 * 312 + 2 * 312 * 1200)
    assert whole - cut == one_layer_behind_attention
    assert operations(SHAPES["4x312"], [1], True) == operations(SHAPES["4x312"], [1])


def test_operations_are_averaged_over_texts_not_over_lengths() -> None:
    """Attention grows with the square, so the mean length alone would say too little."""
    shape = SHAPES["bert-base"]
    assert operations(shape, [10, 90]) == (operations(shape, [10]) + operations(shape, [90])) / 2
    assert operations(shape, [10, 90]) > operations(shape, [50, 50])


def test_ratios_are_formed_round_by_round() -> None:
    """A machine half as fast in the second round changes no ratio."""
    assert ratio([200, 100, 202], [100, 50, 101]) == {"median": 2, "min": 2, "max": 2}


def test_agreement_is_against_the_first_rows() -> None:
    reference = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], np.float32)
    found = agreement(np.array([[0.8, 0.2], [0.6, 0.4]], np.float32), reference)
    assert found["labels"] == 0.5
    assert found["texts"] == 2
    assert found["max_change"] == pytest.approx(0.4)
    assert found["mean_change"] == pytest.approx(0.25)


def entry(rates: list[float], precision: str, first_token: bool = False, **more: Any) -> dict[str, Any]:
    rounds = [
        {
            "unique_per_s": rate,
            "latency_ms": [1000 / rate, 3000 / rate],
            "cold_start_s": 0.5,
            "first_rss_bytes": 100 << 20,
            "peak_rss_bytes": (200 + i) << 20,
        }
        for i, rate in enumerate(rates)
    ]
    rounds[0] |= {"raw_per_s": rates[0] / 2} | more.pop("first", {})
    base = {"precision": precision, "first_token": first_token, "comparable": True, "size_bytes": 5_000_000}
    return base | {"skipped": None, "rounds": rounds} | more


@pytest.fixture
def result() -> dict[str, Any]:
    shape = SHAPES["bert-base"]
    peers = {
        "ours-int8": entry([100.0, 50.0], "int8", True, first={"dump_per_s": 260.0, "dump_gain": 3.47}),
        "ours-fp32": entry([40.0, 20.0], "fp32", True),
        "pytorch-naive": entry([10.0, 5.0], "fp32"),
        "ctranslate-int8": entry([50.0, 20.0], "int8"),
        "tfidf_floor-lr": entry([5000.0, 4000.0], "other", comparable=False),
        "nano-q4": {**entry([1.0], "int4"), "rounds": [], "skipped": "runs only e5-small-mn"},
    }
    found = {
        "case": "bert-base",
        "shape": vars(shape),
        "texts": {"source": "x.csv", "unique": 9, "raw": 9, "dump": 99, "repeats": 0.6, "tokens": 44, "lengths": [44]},
        "rounds": 2,
        "date": "2026-11-24T15:00:00+00:00",
        "commit": None,
        "dirty": False,
        "machine": {"cpu": "A CPU", "cpus": 2, "int8_dot": True},
        "peaks": [{"fp32": 100e9, "int8": 900e9}, {"fp32": 300e9, "int8": 1000e9}],
        "peers": peers,
    }
    return found | {"summary": summarise(found)}


def test_summary(result: dict[str, Any]) -> None:
    ours = result["summary"]["ours-int8"]
    assert ours["times_naive"] == {"median": 10, "min": 10, "max": 10}
    assert result["summary"]["ctranslate-int8"]["ours_over_it"] == {"median": 2.25, "min": 2, "max": 2.5}
    assert ours["peak_rss_bytes"] == 201 << 20
    assert ours["latency_ms"]["p50"] == pytest.approx(25)  # of 10, 20, 30 and 60
    share = 100 * operations(SHAPES["bert-base"], [44], first_token=True) / 1000e9
    assert ours["peak_share"]["max"] == pytest.approx(share)
    assert "nano-q4" not in result["summary"]
    assert "peak_share" not in result["summary"]["tfidf_floor-lr"]


def test_ratios_are_to_the_fastest_of_ours_whatever_its_place(result: dict[str, Any]) -> None:
    result["peers"] = dict(reversed(result["peers"].items()))
    assert summarise(result)["ours-fp32"]["ours_over_it"]["median"] == 2.5


def test_table_tells_who_is_best_and_who_is_absent(result: dict[str, Any]) -> None:
    text = table(result)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows == ["tfidf_floor-lr", "**ours-int8**", "ctranslate-int8", "**ours-fp32**", "pytorch-naive"]
    assert "ours-int8 is 2.25 times (2.00 to 2.50) the best peer, ctranslate-int8" in text
    assert "10.00 times (10.00 to 10.00) the naive way" in text
    assert "3.47 times more on top" in text
    assert "- nano-q4: runs only e5-small-mn" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1, "every row has as many cells as the head"


def test_a_run_of_peers_alone_has_no_verdict(result: dict[str, Any]) -> None:
    result["peers"] = {name: peer for name, peer in result["peers"].items() if not name.startswith("ours-")}
    result["summary"] = summarise(result)
    assert "best peer" not in table(result)
    assert result["summary"]["ctranslate-int8"]["times_naive"]["median"] == 4.5
