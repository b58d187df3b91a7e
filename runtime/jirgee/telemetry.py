"""What the server counts, as Prometheus reads it at ``/metrics``. A registry of its own: two servers in one process do
not mix, and nothing is registered by an import."""

from __future__ import annotations

from functools import partial

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from .batcher import Batcher, BatchFacts

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Telemetry:
    """Every method is called in the event loop's thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._requests = counter("jirgee_requests", "Requests answered", ["route", "status"])
        self._latency = histogram(
            "jirgee_request_seconds", "From a request's headers to its answer", ["route"], buckets=_SECONDS
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # looked up by label, once
        self._refused = counter("jirgee_refused", "Requests refused because of load", ["reason"])
        self._queue_texts = gauge("jirgee_queue_texts", "Texts that wait for a lane")
        self._queue_tokens = gauge("jirgee_queue_tokens", "Their tokens")
        self._rate = gauge("jirgee_rate_tokens_per_second", "Measured capacity, all lanes together")
        self._waited = histogram("jirgee_queue_seconds", "Longest wait of a text in a batch", buckets=_SECONDS)
        self._batch_seconds = histogram("jirgee_batch_seconds", "Time of a batch", buckets=_SECONDS)
        self._batch_texts = histogram("jirgee_batch_texts", "Texts in a batch", buckets=_TEXTS)
        self._batch_tokens = histogram("jirgee_batch_tokens", "Tokens in a batch, padding left out", buckets=_TOKENS)
        self._texts = counter("jirgee_texts", "Texts scored")
        self._tokens = counter("jirgee_tokens", "Tokens scored")
        self._planned = counter("jirgee_planned_tokens", "Tokens computed, padding included")
        self._failed = counter("jirgee_failed_texts", "Texts whose scoring raised")
        ProcessCollector(registry=self.registry)

    def watch(self, batcher: Batcher) -> None:
        """Read the queue whenever the metrics are read."""
        self._queue_texts.set_function(lambda: batcher.waiting_texts)
        self._queue_tokens.set_function(lambda: batcher.waiting_tokens)
        self._rate.set_function(lambda: batcher.rate)

    def request(self, route: str, status: int, seconds: float) -> None:
        if (found := self._children.get((route, status))) is None:
            found = self._requests.labels(route, status), self._latency.labels(route)
            self._children[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def batch(self, facts: BatchFacts) -> None:
        self._waited.observe(facts.waited)
        self._batch_seconds.observe(facts.seconds)
        self._batch_texts.observe(facts.texts)
        self._batch_tokens.observe(facts.tokens)
        self._texts.inc(facts.texts - facts.failed)
        self._tokens.inc(facts.tokens)
        self._planned.inc(facts.planned)
        self._failed.inc(facts.failed)

    def text(self) -> tuple[bytes, str]:
        """The metrics and their content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
