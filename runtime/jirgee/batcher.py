"""Requests -> batches, without waiting for more: what has queued while the model ran makes the next batch.

A lane is a thread that scores one batch at a time; there are as many as the scorer has workers. Whenever a lane is
free, a token budget of waiting texts runs, which the scorer sorts by length and plans. Requests take turns, a budget
each (deficit round robin, Shreedhar and Varghese 1995), so that a long one does not hold up short ones.
A request is admitted only if those ahead of it can be served within ``max_wait`` at the measured rate; one that was
admitted ends with a result or an error, whatever happens to its neighbours. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any, Protocol

from .columns import note
from .scorer import Scorer, Scores

MAX_WAITING_TEXTS = 16384  # whatever the rate: a bound on memory
LOOP_CHARS = 20_000  # characters tokenised in the event loop (about a millisecond); more go to a thread
WAIT_BATCHES = 0.75  # a lane; where max_wait is not given: how much may be ahead of a new request
MEMORY_SECONDS = 5.0  # of lane time over which the rate is averaged


class Busy(Exception):
    """The queue is full; try again in ``retry_after`` seconds."""

    def __init__(self, retry_after: float):
        self.retry_after = retry_after
        super().__init__(f"busy; try again in {retry_after:.1f} s")


class Closed(Exception):
    """The batcher takes no more requests."""


class ItemFailed(Exception):
    """Scoring raised for text ``index`` of a request, also when tried apart from all others."""

    def __init__(self, index: int):
        self.index = index
        super().__init__(f"text {index} could not be scored")


@dataclass(frozen=True)
class BatchFacts:
    """One batch that ran: for metrics. ``waited``: seconds that its oldest text had queued."""

    texts: int
    tokens: int
    planned: int
    waited: float
    seconds: float
    failed: int


@dataclass(eq=False)
class _Request:
    texts: Sequence[str]
    lengths: list[int]
    done: asyncio.Future[list[dict[str, Any]]]
    since: float
    results: list[Any] = field(default_factory=list)
    open: int = 0
    tokens: int = 0  # of texts that wait
    given: int = 0  # tokens in this turn
    waiting: dict[int, None] = field(default_factory=dict)


class TextScorer(Protocol):
    """What the batcher needs of a ``Scorer``."""

    threads: int
    token_budget: int
    tokenizer: Any

    def score(self, texts: Sequence[str], here: bool = False) -> Scores: ...


class Batcher:
    """For one event loop. ``start`` before the first ``submit``, ``close`` at the end."""

    def __init__(
        self,
        scorer: TextScorer | Scorer,
        max_wait: float | None = None,
        token_budget: int | None = None,
        observe: Callable[[BatchFacts], None] = lambda facts: None,
    ):
        """``max_wait``: seconds of work that may be ahead of a new request, None: by the measured rate.
        ``token_budget``: of a batch, and of a request's turn; where much waits, a batch takes half of its lane's share,
        up to the scorer's own budget.
        """
        self._scorer, self._max_wait, self._observe = scorer, max_wait, observe
        self.budget = token_budget or scorer.token_budget
        self._largest = max(self.budget, scorer.token_budget)
        self.lanes = scorer.threads
        self._free = self.lanes
        self._pool = ThreadPoolExecutor(self.lanes + 1, thread_name_prefix="jirgee-lane")
        self._queue: deque[_Request] = deque()
        self._seconds, self._tokens = 0.0, 0.0
        self._closed = False
        self._idle: asyncio.Event | None = None
        self.waiting_texts = self.waiting_tokens = 0

    async def start(self, probes: Sequence[str]) -> None:
        """Warm up and learn the rate from ``probes``; raises what scoring them raises."""
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        await self._loop.run_in_executor(self._pool, self._scorer.score, probes[:1])
        began = time.perf_counter()
        scores = await self._loop.run_in_executor(self._pool, self._scorer.score, probes)
        self._learn(scores.tokens, self.lanes * (time.perf_counter() - began))

    # --- admission -----------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Tokens a second, all lanes together."""
        return self.lanes * self._tokens / self._seconds if self._seconds else math.inf

    @property
    def max_wait(self) -> float:
        """Seconds."""
        if self._max_wait is not None:
            return self._max_wait
        return WAIT_BATCHES * self.lanes * self.budget / self.rate

    @property
    def wait(self) -> float:
        """Seconds until a request that came now would have its turn."""
        return sum(min(request.tokens, self.budget) for request in self._queue) / self.rate

    def check_room(self) -> None:
        """Raise Busy if a request that came now would not be admitted, Closed after ``close`` began."""
        if self._closed:
            raise Closed("the server is stopping")
        if not self._queue:
            return
        wait = self.wait
        if wait > self.max_wait or self.waiting_texts >= MAX_WAITING_TEXTS:
            raise Busy(max(wait, self.waiting_tokens / self.rate))

    async def submit(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Score ``texts``: a dict each, with ``label``, ``score``, ``probs`` and the flags, in order.

        Raises Busy or Closed if the request is not admitted, ItemFailed if one of its texts cannot be scored.
        Cancelling it frees its place.
        """
        self.check_room()
        if not texts:
            return []
        if sum(map(len, texts)) > LOOP_CHARS:
            encoded = await self._loop.run_in_executor(self._pool, self._scorer.tokenizer.encode, texts)
            self.check_room()
        else:
            encoded = self._scorer.tokenizer.encode(texts)
        lengths = encoded.lengths.tolist()
        request = _Request(texts, lengths, self._loop.create_future(), time.perf_counter())
        request.results = [None] * len(texts)
        request.waiting = dict.fromkeys(range(len(texts)))
        request.open, request.tokens = len(texts), sum(lengths)
        self.waiting_texts += len(texts)
        self.waiting_tokens += request.tokens
        self._queue.append(request)
        self._pump()
        try:
            return await request.done
        finally:
            if request.waiting:  # cancelled, or failed by one of its texts
                self._drop(request)

    def _drop(self, request: _Request) -> None:
        self.waiting_texts -= len(request.waiting)
        self.waiting_tokens -= request.tokens
        request.waiting.clear()
        request.tokens = 0
        if request in self._queue:
            self._queue.remove(request)

    # --- lanes ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Give every free lane a batch."""
        while self._free and self._queue:
            items = self._next_batch()
            self._free -= 1
            assert self._idle is not None
            self._idle.clear()
            began = time.perf_counter()
            task = self._loop.run_in_executor(self._pool, self._score, [r.texts[i] for r, i in items])
            task.add_done_callback(lambda done, items=items, began=began: self._finished(done, items, began))

    def _next_batch(self) -> list[tuple[_Request, int]]:
        """Take texts out of the queue, in turn, until a token budget is full: less than one text more than it."""
        # A short queue is shared out among the free lanes: two half batches end sooner than a whole one.
        most = max(self.budget, min(self._largest, self.waiting_tokens // (2 * self.lanes)))
        share = min(most, math.ceil(self.waiting_tokens / self._free))
        items: list[tuple[_Request, int]] = []
        tokens = 0
        for in_turn, request in product((True, False), self._queue):  # what is left over belongs to whoever waits
            if tokens >= share:
                break
            for index in tuple(islice(request.waiting, share - tokens)):  # a text has a token at least
                if tokens >= share or (in_turn and request.given >= self.budget):
                    break
                length = request.lengths[index]
                items.append((request, index))
                del request.waiting[index]
                tokens += length
                request.tokens -= length
                request.given += length if in_turn else 0
        self.waiting_tokens -= tokens
        self.waiting_texts -= len(items)
        for request in {request: None for request, _ in items}:
            if not request.waiting:
                self._queue.remove(request)
            elif request.given >= self.budget:
                request.given = 0
                self._queue.remove(request)
                self._queue.append(request)
        return items

    def _score(self, texts: list[str]) -> tuple[list[Any], int, int]:
        """In a lane: a result or an exception for each text, and the tokens. If a batch fails, each is tried apart."""
        try:
            scores = self._scorer.score(texts, here=True)
            return _rows(scores, texts), scores.tokens, scores.planned
        except Exception as error:
            if len(texts) == 1:
                return [error], 0, 0
        apart = [self._score([text]) for text in texts]
        return [rows[0] for rows, _, _ in apart], sum(part[1] for part in apart), sum(part[2] for part in apart)

    def _finished(self, done: asyncio.Future[Any], items: list[tuple[_Request, int]], began: float) -> None:
        self._free += 1
        seconds = time.perf_counter() - began
        try:
            results, tokens, planned = done.result()
        except BaseException as error:  # the lane itself: a pool that shut down, an interrupt
            results, tokens, planned = [error] * len(items), 0, 0
        for (request, index), result in zip(items, results, strict=True):
            request.results[index] = result
            request.open -= 1
            if request.done.done():
                continue
            if isinstance(result, BaseException):
                failed = ItemFailed(index)
                failed.__cause__ = result
                request.done.set_exception(failed)
            elif not request.open:
                request.done.set_result(request.results)
        if tokens:
            self._learn(tokens, seconds)
        failed_texts = sum(isinstance(result, BaseException) for result in results)
        oldest = min(request.since for request, _ in items)
        self._observe(BatchFacts(len(items), tokens, planned, began - oldest, seconds, failed_texts))
        self._pump()
        if self._free == self.lanes and not self._queue:
            assert self._idle is not None
            self._idle.set()

    def _learn(self, tokens: int, seconds: float) -> None:
        keep = math.exp(-seconds / MEMORY_SECONDS)
        self._seconds, self._tokens = keep * self._seconds + seconds, keep * self._tokens + tokens

    async def close(self) -> None:
        """Take no more requests, finish those that were admitted, stop the lanes."""
        self._closed = True
        if self._idle is not None:
            await self._idle.wait()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _rows(scores: Scores, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What is told of each text; names and rounding as in the JSON lines of ``jirgee score --flags``."""
    rows = []
    for index, (label, values) in enumerate(
        zip(scores.labels, scores.probs.astype(float).round(6).tolist(), strict=True)
    ):
        rows.append(
            {
                "label": label,
                "score": max(values),
                "probs": dict(zip(scores.classes, values, strict=True)),
                "truncated": bool(scores.truncated[index]),
                "unknown_share": round(float(scores.unknown[index]), 4),
                "note": note(texts[index]),
            }
        )
    return rows
