"""``Scorer.load(bundle).score(texts) -> Scores``: the engine.

Texts are made unique, tokenised in windows, sorted by length, cut by a token budget and run by worker threads that
share one single-threaded onnxruntime session: the weights are in memory once, no thread waits for another inside an
operator, and the calling thread tokenises the next window while the workers compute.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from .bundle import NGRAMS, Bundle
from .errors import BundleError, MachineError
from .heads import Heads
from .int8 import EXACT, probe
from .machine import cpu_count
from .ngrams import NgramModel
from .plan import Batch, plan
from .providers import choose_device, open_session
from .tokens import Encoded, Tokenizer, TokenizerSpec

WINDOW = 2048  # unique texts tokenised and sorted together: 1 % of padding is left
TOKEN_BUDGET = {"cpu": 512, "cuda": 16384}  # tokens of one batch, padding included


@dataclass(frozen=True)
class Scores:
    """``probs``: float32 [n, k], rows sum to 1. ``classes``: k names. ``truncated``: bool [n], texts cut short.

    ``unknown``: float32 [n], share of a text's pieces that the tokenizer does not know. ``tokens``: what the model was
    given for these scores, ``planned``: with padding; both 0 where every score was remembered.
    """

    probs: np.ndarray
    classes: list[str]
    truncated: np.ndarray
    unknown: np.ndarray
    tokens: int = 0
    planned: int = 0

    @property
    def labels(self) -> list[str]:
        """The most probable class of each text."""
        return [self.classes[index] for index in self.probs.argmax(axis=1)] if len(self.probs) else []

    @property
    def confidence(self) -> np.ndarray:
        """float32 [n]: the probability of ``labels``."""
        return self.probs.max(axis=1) if len(self.probs) else np.zeros(0, np.float32)

    def __len__(self) -> int:
        return len(self.probs)


class Scorer:
    """Scores texts with one bundle on one device. Safe to share between threads; holds no global state."""

    def __init__(self, bundle: Bundle, device: str, threads: int, token_budget: int, cache_texts: int):
        self.bundle, self.device, self.threads, self.token_budget = bundle, device, threads, token_budget
        self.tokenizer = Tokenizer(bundle.tokenizer, bundle.read(bundle.tokenizer.file), bundle.max_tokens)
        self._session = open_session(_for_session(bundle.model()), device, intra_threads=1)
        self._inputs = _checked_inputs(bundle, self._session)
        self._ngrams = None
        if bundle.ngram_weight:
            self._ngrams = NgramModel.from_bytes(bundle.read(NGRAMS), len(bundle.labels))
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="jirgee")
        self._cache = _Cache(cache_texts)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        device: str = "auto",
        threads: int | None = None,
        token_budget: int | None = None,
        cache_texts: int = 0,
    ) -> Scorer:
        """Open a bundle for scoring.

        ``device``: ``cpu``, ``cuda`` (an error where it cannot be used) or ``auto``. ``threads``: worker threads, by
        default as many as the affinity mask and the container's quota allow. ``token_budget``: tokens in one batch.
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
        workers = threads or (cpu_count() if device == "cpu" else 1)
        return cls(bundle, device, workers, token_budget or TOKEN_BUDGET[device], cache_texts)

    def score(self, texts: Sequence[str]) -> Scores:
        """Score ``texts`` in order. Repeated texts are computed once and get the same score."""
        if isinstance(texts, str):
            raise TypeError("score takes a list of texts, not one text: score([text])")
        slots: dict[str, int] = {}
        row_slot = np.fromiter((slots.setdefault(text, len(slots)) for text in texts), np.int64, count=len(texts))
        unique = list(slots)
        probs = np.zeros((len(unique), len(self.bundle.labels)), dtype=np.float32)
        logits = np.zeros(probs.shape)
        truncated = np.zeros(len(unique), dtype=bool)
        unknown = np.zeros(len(unique), dtype=np.float32)
        tokens = planned = 0

        todo = self._cache.take(unique, probs, truncated, unknown)
        pending: list[tuple[np.ndarray, Future[np.ndarray]]] = []
        for start in range(0, len(todo), WINDOW):
            window = todo[start : start + WINDOW]
            window_texts = [unique[slot] for slot in window]
            encoded = self.tokenizer.encode(window_texts)
            truncated[window], unknown[window] = encoded.truncated, _unknown_share(encoded, self.bundle.tokenizer)
            tokens += len(encoded.ids)
            for batch in plan(encoded.lengths, self.token_budget):
                planned += batch.tokens
                pending.append((window[batch.rows], self._workers.submit(self._run, encoded, batch)))
            if self._ngrams:
                logits[window] = self.bundle.ngram_weight * self._ngrams.logits(window_texts)
        try:
            for window_slots, result in pending:
                logits[window_slots] += result.result() / self.bundle.temperature
        finally:
            for _, result in pending:
                result.cancel()
        probs[todo] = softmax(logits[todo])
        self._cache.put(unique, todo, probs, truncated, unknown)
        classes = list(self.bundle.labels)
        return Scores(probs[row_slot], classes, truncated[row_slot], unknown[row_slot], tokens, planned)

    @cached_property
    def heads(self) -> Heads | None:
        """The bundle's attention graph, opened when first asked for; None where export was not told to add one."""
        return Heads.of(self.bundle)

    def score_ids(self, encoded: Encoded, texts: Sequence[str]) -> np.ndarray:
        """Probabilities float32 [n, k] of token ids as they are. ``texts``: what a hybrid's n-grams read, one each."""
        logits = np.zeros((len(encoded), len(self.bundle.labels)))
        batches = plan(encoded.lengths, self.token_budget)
        pending = [(batch.rows, self._workers.submit(self._run, encoded, batch)) for batch in batches]
        if self._ngrams:
            logits += self.bundle.ngram_weight * self._ngrams.logits(texts)
        for rows, result in pending:
            logits[rows] += result.result() / self.bundle.temperature
        return softmax(logits)

    def _run(self, encoded: Encoded, batch: Batch) -> np.ndarray:
        ids, mask = encoded.padded(batch.rows, batch.width, self.bundle.tokenizer.pad_id)
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: arrays[name].astype(dtype, copy=False) for name, dtype in self._inputs.items()}
        try:
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

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """``logits`` [n, k] -> probabilities float32 [n, k]. Raises BundleError for a NaN or an infinity."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if not np.isfinite(scaled).all():
        raise BundleError("the model gave a logit that is not a finite number; export it again with another recipe")
    exp = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)


class _Cache:
    """Scores of the texts seen most recently, at most ``size`` of them."""

    def __init__(self, size: int):
        self._size, self._lock = size, Lock()
        self._rows: OrderedDict[str, tuple[np.ndarray, ...]] = OrderedDict()

    def take(self, texts: list[str], *columns: np.ndarray) -> np.ndarray:
        """Fill in what is known; return the int64 slots of the rest."""
        if not self._size:
            return np.arange(len(texts))
        missing = []
        with self._lock:
            for slot, text in enumerate(texts):
                if (row := self._rows.get(text)) is None:
                    missing.append(slot)
                else:
                    for column, value in zip(columns, row, strict=True):
                        column[slot] = value
                    self._rows.move_to_end(text)
        return np.array(missing, dtype=np.int64)

    def put(self, texts: list[str], slots: np.ndarray, *columns: np.ndarray) -> None:
        if not self._size:
            return
        with self._lock:
            for slot in slots:
                self._rows[texts[slot]] = tuple(column[slot].copy() for column in columns)
            while len(self._rows) > self._size:
                self._rows.popitem(last=False)


def _unknown_share(encoded: Encoded, spec: TokenizerSpec) -> np.ndarray:
    """float32 [n]: unknown pieces of each text over its pieces, special tokens not counted."""
    sums = np.concatenate([[0], np.cumsum(encoded.ids == spec.unk_id)])
    special = len(spec.prefix) + len(spec.suffix)
    counts = sums[encoded.offsets[1:]] - sums[encoded.offsets[:-1]] - [*spec.prefix, *spec.suffix].count(spec.unk_id)
    return (counts / np.maximum(encoded.lengths - special, 1)).astype(np.float32)


def _for_session(model: Any) -> str | bytes:
    return model if isinstance(model, bytes) else str(model)


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
