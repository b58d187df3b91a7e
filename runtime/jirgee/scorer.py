"""``Scorer.load(bundle).score(texts) -> Scores``: the engine.

Texts are made unique, tokenised in windows, sorted by length, cut by a token budget and run by worker threads that
share one single-threaded onnxruntime session: the weights are in memory once, no thread waits for another inside an
operator, and the calling thread tokenises the next window while the workers compute. Of a cascade, the small model
scores every text and the large one those of which the small one is not sure.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from threading import BoundedSemaphore, Lock
from typing import Any

import numpy as np

from .bundle import Bundle
from .cache import ScoreCache
from .cuda import Bound, provider_options, rows_of, widths
from .errors import BundleError, MachineError
from .heads import Heads
from .int8 import EXACT, probe
from .layout import TOKEN_BUDGET, Layout, default, remembered
from .mapped import check_unchanged, session_model
from .ngrams import NgramModel
from .plan import Batch, plan
from .providers import DEVICES, choose_device, open_session
from .scores import Scores, softmax
from .tokens import Encoded, Tokenizer, TokenizerSpec

WINDOW = 2048  # unique texts tokenised and sorted together: 1 % of padding is left
RUN_COST = 8  # tokens that the CPU could compute in the time that a batch costs beside its tokens
WINDOWS_AHEAD = 3  # tokenised and not yet collected: what a call of a million texts holds beside them

__all__ = ["TOKEN_BUDGET", "WINDOW", "Scorer", "Scores", "softmax"]


class Scorer:
    """Scores texts with one bundle on one device. Safe to share between threads; holds no global state."""

    def __init__(self, bundle: Bundle, device: str, layout: Layout, cache_texts: int):
        if "enable_cuda_graph" in DEVICES[device][1]:
            layout = replace(layout, workers=1)  # graphs are not to be replayed by several threads
        self.bundle, self.device, self.layout = bundle, device, layout
        self.threads, self.token_budget = layout.workers, layout.token_budget
        with ThreadPoolExecutor(2, thread_name_prefix="jirgee-open") as beside:
            unchanged = beside.submit(check_unchanged, bundle)
            spec = bundle.tokenizer
            tokenizer = beside.submit(Tokenizer, spec, bundle.read(spec.file), bundle.max_tokens)
            try:
                model, folder = session_model(bundle)
                more = provider_options(bundle, device)
                self._session = open_session(model, device, layout.inner, folder, not layout.lean, more)
            finally:
                unchanged.result()  # of a model that changed, no other error is worth telling
            self.tokenizer = tokenizer.result()
        self._inputs = _checked_inputs(bundle, self._session)
        self._bound = None if device == "cpu" else Bound(self._session, self._inputs, len(bundle.labels), device)
        self._ngrams = None
        if bundle.ngram_weight:
            self._ngrams = NgramModel.from_bytes(bundle.read(bundle.ngrams_file), len(bundle.labels))
        self._workers = ThreadPoolExecutor(layout.workers, thread_name_prefix="jirgee")
        self._processors = BoundedSemaphore(layout.workers)  # callers compute too, a single batch or all: ``here``
        self._cache = ScoreCache(bundle.labels, cache_texts) if cache_texts else None
        self._large: Scorer | None = None
        self._opening = Lock()

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        device: str = "auto",
        threads: int | None = None,
        token_budget: int | None = None,
        cache_texts: int = 0,
        layout: Layout | None = None,
    ) -> Scorer:
        """Open a bundle for scoring.

        ``device``: ``auto`` or a row of ``providers.DEVICES`` (an error where it cannot be used). ``threads``: worker
        threads, by default as many as the affinity mask and the container's quota allow. ``token_budget``:
        tokens in one batch.
        ``layout``: both at once and more; by default what ``jirgee tune`` found, where neither of the two is given.
        ``cache_texts``: how many distinct texts' scores to remember between calls, 0 for none.
        Raises BundleError for a bad bundle, MachineError for a device that is not there, MissingPackage without
        onnxruntime.
        """
        if threads is not None and threads < 1:
            raise MachineError(f"threads must be at least 1, not {threads}")
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        device = choose_device(device)
        if device == "cpu" and bundle.safe_on == "int8_dot" and probe() != EXACT:
            warnings.warn(
                f"{bundle.path}: recipe {bundle.recipe} needs a CPU with 8-bit dot products (VNNI, AMX or ARM "
                "dotprod); here its sums saturate and scores will be off: export it again on this kind of CPU",
                RuntimeWarning,
                stacklevel=2,
            )
        if layout is None and threads is None and token_budget is None and device == "cpu":
            layout = remembered(bundle)
        if layout is None:
            layout = default(device, threads)
        if token_budget:
            layout = replace(layout, token_budget=token_budget)
        return cls(bundle, device, layout, cache_texts)

    def score(self, texts: Sequence[str], here: bool = False) -> Scores:
        """Score ``texts`` in order. Repeated texts are computed once and get the same score.

        ``here``: on a CPU, compute in the calling thread, one batch after another: for a caller that has threads of
        its own and few texts, of which handing each to a worker would take a part as large as a tenth.
        """
        if isinstance(texts, str):
            raise TypeError("score takes a list of texts, not one text: score([text])")
        compute = partial(self._compute, here=here and self._bound is None)
        return compute(texts) if self._cache is None else self._cache.score(compute, texts).scores

    def _compute(self, texts: Sequence[str], here: bool = False) -> Scores:
        slots: dict[str, int] = {}
        row_slot = np.fromiter((slots.setdefault(text, len(slots)) for text in texts), np.int64, count=len(texts))
        unique = list(slots)
        logits = np.zeros((len(unique), len(self.bundle.labels)))
        truncated = np.zeros(len(unique), dtype=bool)
        unknown = np.zeros(len(unique), dtype=np.float32)
        tokens = planned = deferred = 0

        pending: deque[list[tuple[np.ndarray, Future[np.ndarray]]]] = deque()
        try:
            for start in range(0, len(unique), WINDOW):
                window = np.arange(start, min(start + WINDOW, len(unique)))
                window_texts = unique[start : start + WINDOW]
                encoded = self.tokenizer.encode(window_texts, 1 if pending or here else self.threads)
                truncated[window], unknown[window] = encoded.truncated, _unknown_share(encoded, self.bundle.tokenizer)
                tokens += len(encoded.ids)
                batches = self._plan(encoded)
                planned += sum(batch.tokens for batch in batches)
                if here or (self._bound is None and len(unique) <= WINDOW and len(batches) == 1):
                    for batch in batches:
                        logits[window[batch.rows]] = self._run(encoded, batch) / self.bundle.temperature
                else:
                    pending.append(
                        [(window[batch.rows], self._workers.submit(self._run, encoded, batch)) for batch in batches]
                    )
                if self._ngrams:
                    logits[window] += self.bundle.ngram_weight * self._ngrams.logits(window_texts)
                while len(pending) > WINDOWS_AHEAD:
                    self._collect(pending, logits)
            while pending:
                self._collect(pending, logits)
        finally:
            for window_results in pending:
                for _, result in window_results:
                    result.cancel()
        probs = softmax(logits)
        if self.bundle.cascade and len(unique):
            unsure = np.flatnonzero(probs.max(axis=1) < self.bundle.cascade["threshold"])
            if deferred := len(unsure):
                large = self._large_scorer().score([unique[slot] for slot in unsure], here)
                probs[unsure], tokens, planned = large.probs, tokens + large.tokens, planned + large.planned
        classes = list(self.bundle.labels)
        return Scores(probs[row_slot], classes, truncated[row_slot], unknown[row_slot], tokens, planned, deferred)

    def _collect(self, pending: deque[list[tuple[np.ndarray, Future[np.ndarray]]]], logits: np.ndarray) -> None:
        """Add the oldest window's logits when they are there."""
        for slots, result in pending[0]:
            logits[slots] += result.result() / self.bundle.temperature
        pending.popleft()

    def _large_scorer(self) -> Scorer:
        """The cascade's large model, opened when the first text needs it."""
        with self._opening:
            if self._large is None:
                assert self.bundle.large
                self._large = Scorer.load(self.bundle.large, self.device, layout=self.layout)
            return self._large

    @cached_property
    def heads(self) -> Heads | None:
        """The bundle's attention graph, opened when first asked for; None where export was not told to add one."""
        return Heads.of(self.bundle)

    def score_ids(self, encoded: Encoded, texts: Sequence[str]) -> np.ndarray:
        """Probabilities float32 [n, k] of token ids as they are. ``texts``: what a hybrid's n-grams read, one each."""
        logits = np.zeros((len(encoded), len(self.bundle.labels)))
        batches = self._plan(encoded)
        pending = [(batch.rows, self._workers.submit(self._run, encoded, batch)) for batch in batches]
        if self._ngrams:
            logits += self.bundle.ngram_weight * self._ngrams.logits(texts)
        for rows, result in pending:
            logits[rows] += result.result() / self.bundle.temperature
        return softmax(logits)

    def _plan(self, encoded: Encoded) -> list[Batch]:
        if self._bound:
            return plan(widths(encoded.lengths, self.bundle.max_tokens), self.token_budget)
        return plan(encoded.lengths, self.token_budget, RUN_COST)

    def _run(self, encoded: Encoded, batch: Batch) -> np.ndarray:
        ids, mask = encoded.padded(batch.rows, batch.width, self.bundle.tokenizer.pad_id)
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: arrays[name].astype(dtype, copy=False) for name, dtype in self._inputs.items()}
        try:
            with self._processors:
                if self._bound:
                    logits = self._bound.run(feed, rows_of(len(ids), self.token_budget // batch.width))
                else:
                    logits = self._session.run(None, feed)[0]
        except Exception as error:  # onnxruntime raises its own classes, one per status code
            text = " ".join(str(error).split())
            hint = "; lower the token budget" if "alloc" in text.lower() or "memory" in text.lower() else ""
            raise MachineError(
                f"onnxruntime failed on {len(ids)} texts of {batch.width} tokens: {text}{hint}"
            ) from error
        return logits

    def close(self) -> None:
        """Stop the worker threads. The scorer cannot be used afterwards."""
        self._workers.shutdown(cancel_futures=True)
        if self._large:
            self._large.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _unknown_share(encoded: Encoded, spec: TokenizerSpec) -> np.ndarray:
    """float32 [n]: unknown pieces of each text over its pieces, special tokens not counted."""
    sums = np.concatenate([[0], np.cumsum(encoded.ids == spec.unk_id)])
    special = len(spec.prefix) + len(spec.suffix)
    counts = sums[encoded.offsets[1:]] - sums[encoded.offsets[:-1]] - [*spec.prefix, *spec.suffix].count(spec.unk_id)
    return (counts / np.maximum(encoded.lengths - special, 1)).astype(np.float32)


def _checked_inputs(bundle: Bundle, session: Any) -> dict[str, Any]:
    """Input name -> numpy type, after checking that the graph is the one the manifest describes."""
    names = [node.name for node in session.get_inputs()]
    known = {"input_ids", "attention_mask", "token_type_ids"}
    if set(names) != set(bundle.inputs) or not set(names) <= known:
        raise BundleError(f"{bundle.path}: the graph's inputs {names} are not the manifest's {list(bundle.inputs)}")
    width = session.get_outputs()[0].shape[-1]
    if isinstance(width, int) and width != len(bundle.labels):
        raise BundleError(f"{bundle.path}: the graph gives {width} logits for {len(bundle.labels)} labels")
    types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
    return {node.name: types[node.type] for node in session.get_inputs()}
