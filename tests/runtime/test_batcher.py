"""The batcher on a scorer without a model: who runs with whom, who waits, who is refused, who fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jirgee.batcher import MAX_WAITING_TEXTS, Batcher, BatchFacts, Busy, Closed, ItemFailed
from jirgee.scorer import Scores


class Words:
    """A tokenizer: a token a character."""

    def encode(self, texts: Sequence[str]) -> Any:
        class Encoded:
            lengths = np.array([max(1, len(text)) for text in texts])

        return Encoded


class FakeScorer:
    """Scores by the first character; waits in each batch while ``gate`` is closed; raises for a text of ``poison``."""

    def __init__(self, threads: int = 1, budget: int = 8):
        self.threads, self.token_budget, self.tokenizer = threads, budget, Words()
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def score(self, texts: Sequence[str], here: bool = False) -> Scores:
        self.batches.append(list(texts))
        assert self.gate.wait(10)
        if any("poison" in text for text in texts):
            raise RuntimeError("poisoned")
        first = np.array([text[:1] == "y" for text in texts], np.float32)
        tokens = sum(map(len, texts))
        return Scores(
            np.stack([1 - first, first], 1),
            ["n", "y"],
            np.zeros(len(texts), bool),
            np.zeros(len(texts)),
            tokens,
            tokens,
        )


def run(scorer: FakeScorer, story: Any, **options: Any) -> Any:
    """``story(batcher)`` in an event loop, with a batcher that is closed afterwards."""

    async def main() -> Any:
        batcher = Batcher(scorer, **options)
        await batcher.start(["warm"])
        scorer.batches.clear()
        try:
            return await asyncio.wait_for(story(batcher), 20)
        finally:
            scorer.gate.set()
            await asyncio.wait_for(batcher.close(), 20)

    return asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Any) -> None:
    """Wait for what a thread does."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("never happened")


def labels(rows: list[dict[str, Any]]) -> str:
    return "".join(row["label"] for row in rows)


def test_results_come_in_order() -> None:
    scorer = FakeScorer(threads=2)

    async def story(batcher: Batcher) -> list[str]:
        texts = [["yes", "no", "yyyyyyyyyyyyyyyy", "n"], ["no"], ["yes", "", "yy"]]
        return [labels(rows) for rows in await asyncio.gather(*map(batcher.submit, texts))]

    assert run(scorer, story, max_wait=60) == ["ynyn", "n", "yny"]


def test_a_row_says_what_a_line_of_score_says() -> None:
    async def story(batcher: Batcher) -> Any:
        return await batcher.submit(["https://t.co/x", " "])

    link, empty = run(FakeScorer(budget=99), story)
    assert link == {
        "label": "n",
        "score": 1.0,
        "probs": {"n": 1.0, "y": 0.0},
        "truncated": False,
        "unknown_share": 0.0,
        "note": "link-only",
    }
    assert empty["note"] == "empty"


def test_what_queued_while_the_model_ran_makes_the_next_batch() -> None:
    scorer = FakeScorer(budget=8)

    async def story(batcher: Batcher) -> None:
        scorer.gate.clear()
        works = [asyncio.create_task(batcher.submit([text])) for text in ("first", "a", "b", "c", "d")]
        await until(lambda: scorer.batches)
        assert scorer.batches == [["first"]]  # at once, alone: no delay in hope of others
        assert batcher.waiting_texts == 4
        scorer.gate.set()
        await asyncio.gather(*works)

    run(scorer, story, max_wait=60)
    assert scorer.batches == [["first"], ["a", "b", "c", "d"]]


def test_batches_are_full_and_the_oldest_always_runs() -> None:
    scorer = FakeScorer(budget=8)

    async def story(batcher: Batcher) -> None:
        scorer.gate.clear()
        texts = ["x", "long-one", "a", "b", "long-two", "c"]
        works = [asyncio.create_task(batcher.submit([text])) for text in texts]
        await turns()
        scorer.gate.set()
        await asyncio.gather(*works)

    run(scorer, story, max_wait=60)
    assert scorer.batches == [["x"], ["long-one"], ["a", "b", "long-two"], ["c"]]


def test_a_long_request_does_not_hold_up_a_short_one() -> None:
    scorer = FakeScorer(budget=4)

    async def story(batcher: Batcher) -> None:
        scorer.gate.clear()
        long = asyncio.create_task(batcher.submit(["n"] * 40))
        await turns()
        short = asyncio.create_task(batcher.submit(["y"]))
        await turns()
        scorer.gate.set()
        await asyncio.gather(long, short)

    run(scorer, story, max_wait=60)
    assert 1 <= next(place for place, batch in enumerate(scorer.batches) if "y" in batch) <= 2
    assert sum(map(len, scorer.batches)) == 41


def test_free_lanes_share_a_short_queue() -> None:
    scorer = FakeScorer(threads=2, budget=100)

    async def story(batcher: Batcher) -> None:
        await batcher.submit(["n"] * 10)

    run(scorer, story)
    assert sorted(map(len, scorer.batches)) == [5, 5]


def test_one_poisoned_text_fails_alone() -> None:
    scorer = FakeScorer(budget=100)
    facts: list[BatchFacts] = []

    async def story(batcher: Batcher) -> list[Any]:
        scorer.gate.clear()
        requests = [["n"], ["yes", "no"], ["n", "poison"], ["y"]]
        works = [asyncio.create_task(batcher.submit(texts)) for texts in requests]
        await turns()
        scorer.gate.set()
        return await asyncio.gather(*works, return_exceptions=True)

    first, second, third, fourth = run(scorer, story, observe=facts.append, max_wait=60)
    assert [labels(rows) for rows in (first, second, fourth)] == ["n", "yn", "y"]
    assert isinstance(third, ItemFailed)
    assert third.index == 1
    assert isinstance(third.__cause__, RuntimeError)
    assert sorted(scorer.batches[1]) == ["n", "no", "poison", "y", "yes"], "it ran together with others"
    assert sum(fact.failed for fact in facts) == 1
    assert sum(fact.texts for fact in facts) == 6


def test_after_a_failure_the_rest_of_its_request_leaves_the_queue_and_others_go_on() -> None:
    scorer = FakeScorer(budget=6)

    async def story(batcher: Batcher) -> str:
        bad = asyncio.create_task(batcher.submit(["poison", *["no"] * 50]))
        good = asyncio.create_task(batcher.submit(["y"]))
        with pytest.raises(ItemFailed):
            await bad
        await good
        assert batcher.waiting_texts == batcher.waiting_tokens == 0
        return labels(await batcher.submit(["y"]))

    assert run(scorer, story, max_wait=60) == "y"
    assert sum(map(len, scorer.batches)) < 50


def test_a_cancelled_request_frees_its_place() -> None:
    scorer = FakeScorer(budget=4)

    async def story(batcher: Batcher) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(batcher.submit(["n"]))
        gone = asyncio.create_task(batcher.submit(["gone"] * 30))
        after = asyncio.create_task(batcher.submit(["y"]))
        await turns()
        assert batcher.waiting_texts == 31
        gone.cancel()
        await turns()
        assert (batcher.waiting_texts, batcher.waiting_tokens) == (1, 1)
        scorer.gate.set()
        assert labels(await first) + labels(await after) == "ny"

    run(scorer, story, max_wait=60)
    assert scorer.batches == [["n"], ["y"]]


def test_a_request_is_refused_when_those_ahead_of_it_take_too_long() -> None:
    scorer = FakeScorer(budget=4)

    async def story(batcher: Batcher) -> None:
        batcher._seconds, batcher._tokens = 1.0, 4.0  # four tokens a second
        scorer.gate.clear()
        works = [asyncio.create_task(batcher.submit(["four"])) for _ in range(4)]
        await turns()
        assert batcher.wait == pytest.approx(3)
        with pytest.raises(Busy) as busy:
            await batcher.submit(["n"])
        assert busy.value.retry_after == pytest.approx(3)
        scorer.gate.set()
        assert [labels(rows) for rows in await asyncio.gather(*works)] == ["n"] * 4
        assert labels(await batcher.submit(["y"])) == "y"

    run(scorer, story, max_wait=2.5)


def test_what_may_be_ahead_follows_the_measured_rate() -> None:
    async def story(batcher: Batcher) -> float:
        batcher._seconds, batcher._tokens = 1.0, 400.0  # a batch is a hundredth of a second
        return batcher.max_wait

    assert run(FakeScorer(budget=4), story) == pytest.approx(0.0075)


def test_where_much_waits_batches_grow_to_the_scorers_budget() -> None:
    scorer = FakeScorer(budget=40)
    facts: list[BatchFacts] = []

    async def story(batcher: Batcher) -> None:
        scorer.gate.clear()
        works = [asyncio.create_task(batcher.submit(["four"] * count)) for count in (1, 30, 1)]
        await turns()
        scorer.gate.set()
        await asyncio.gather(*works)

    run(scorer, story, observe=facts.append, max_wait=60, token_budget=8)
    sizes = [fact.tokens for fact in facts]
    assert sizes[0] == 4
    assert sizes[1] > 8, "of 124 waiting tokens no more than the scorer's 40"
    assert max(sizes) <= 40 + 4
    assert sum(sizes) == 4 * 32


def test_the_rate_is_learnt_from_what_ran() -> None:
    class Slow(FakeScorer):
        def score(self, texts: Sequence[str], here: bool = False) -> Scores:
            time.sleep(0.01 * len(texts))
            return super().score(texts, here)

    async def story(batcher: Batcher) -> float:
        await batcher.submit(["12345"] * 40)
        return batcher.rate

    assert 0 < run(Slow(budget=20), story) <= 500  # five tokens in ten milliseconds at best


def test_memory_is_bounded_whatever_the_rate() -> None:
    scorer = FakeScorer(budget=MAX_WAITING_TEXTS)

    async def story(batcher: Batcher) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(batcher.submit(["n"]))
        await turns()
        many = asyncio.create_task(batcher.submit([""] * MAX_WAITING_TEXTS))
        await turns()
        with pytest.raises(Busy):
            await batcher.submit(["n"])
        scorer.gate.set()
        await asyncio.gather(first, many)

    run(scorer, story, max_wait=1e9)


def test_close_finishes_what_was_admitted_and_takes_no_more() -> None:
    scorer = FakeScorer(budget=4)

    async def story(batcher: Batcher) -> str:
        scorer.gate.clear()
        works = [asyncio.create_task(batcher.submit(["y"])) for _ in range(9)]
        await turns()
        closing = asyncio.create_task(batcher.close())
        await turns()
        with pytest.raises(Closed):
            await batcher.submit(["n"])
        assert not closing.done()
        scorer.gate.set()
        await closing
        return "".join([labels(await work) for work in works])

    assert run(scorer, story, max_wait=60) == "y" * 9


@pytest.mark.parametrize("budget", [16, 4, 1])
def test_many_requests_at_random_each_get_their_own(budget: int) -> None:
    scorer = FakeScorer(threads=3, budget=16)
    rng = np.random.default_rng(5)
    requests = [["yn"[rng.integers(2)] * rng.integers(1, 12) for _ in range(rng.integers(1, 9))] for _ in range(300)]

    async def one(batcher: Batcher, texts: list[str], number: int) -> str:
        await asyncio.sleep(0.0005 * (number % 50))
        work = asyncio.create_task(batcher.submit(texts))
        if number % 7 == 0:
            await asyncio.sleep(0)
            work.cancel()
        try:
            return labels(await work)
        except asyncio.CancelledError:
            return "cancelled"

    async def story(batcher: Batcher) -> list[str]:
        got = await asyncio.gather(*(one(batcher, texts, number) for number, texts in enumerate(requests)))
        assert (batcher.waiting_texts, batcher.waiting_tokens, batcher.wait) == (0, 0, 0)
        return got

    got = run(scorer, story, max_wait=1e9, token_budget=budget)
    for number, (texts, answer) in enumerate(zip(requests, got, strict=True)):
        assert answer == "".join(text[0] for text in texts) or (number % 7 == 0 and answer == "cancelled")
