"""What the activations of a graph look like on real texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from jirgee.plan import plan
from jirgee.tokens import Encoded

from .products import steps_of

TEXTS = 256  # enough: peaks grow slowly after the first hundred
TOKENS_A_BATCH = 512


@dataclass(frozen=True)
class Channels:
    """``low``, ``high``: smallest and largest value of each channel, float [channels]. ``square``: mean square."""

    low: np.ndarray
    high: np.ndarray
    square: np.ndarray

    @property
    def peak(self) -> np.ndarray:
        return np.maximum(self.high, -self.low)

    @property
    def range(self) -> tuple[float, float]:
        return float(self.low.min()), float(self.high.max())

    def divided(self, factor: np.ndarray) -> Channels:
        """As they are when each channel is divided by its (positive) factor."""
        return Channels(self.low / factor, self.high / factor, self.square / np.square(factor, dtype=float))

    def joined(self, other: Channels) -> Channels:
        return Channels(np.minimum(self.low, other.low), np.maximum(self.high, other.high), self.square + other.square)


@dataclass(frozen=True)
class Calibration:
    """Texts that stand for those to come. ``encoded``: their token ids. ``pad_id``: row of the padding."""

    encoded: Encoded
    pad_id: int

    def take(self, count: int) -> Calibration:
        """The first ``count`` texts (all, if there are fewer)."""
        offsets = self.encoded.offsets[: count + 1]
        part = Encoded(self.encoded.ids[: offsets[-1]], offsets, self.encoded.truncated[:count])
        return Calibration(part, self.pad_id)

    def logits(self, model: ModelProto) -> np.ndarray:
        """float32 [n, k]: the first output for each text."""
        found: list[np.ndarray] = []
        order: list[np.ndarray] = []
        for rows, _, values in self._run(model, [model.graph.output[0].name]):
            order.append(rows)
            found.append(values[0])
        result = np.concatenate(found)
        result[np.concatenate(order)] = result.copy()
        return result

    def channels(self, model: ModelProto, names: list[str]) -> dict[str, Channels]:
        """Of each of the named tensors, what its channels (last axis) hold over all texts.

        Cutting the range of values to the least squared error was worse: the rare large ones carry more of the meaning
        than their number tells.
        """
        found: dict[str, Channels] = {}
        count: dict[str, int] = {}
        for name, tokens in self._tokens(model, names):
            one = Channels(tokens.min(axis=0), tokens.max(axis=0), np.square(tokens).sum(axis=0, dtype=float))
            found[name] = found[name].joined(one) if name in found else one
            count[name] = count.get(name, 0) + len(tokens)
        return {name: replace(seen, square=seen.square / count[name]) for name, seen in found.items()}

    def rows(self, model: ModelProto, names: list[str]) -> dict[str, int]:
        """How many rows the named tensors have over all texts, padding not counted."""
        found: dict[str, int] = {}
        for name, tokens in self._tokens(model, names):
            found[name] = found.get(name, 0) + len(tokens)
        return found

    def means(
        self, model: ModelProto, names: list[str], ranges: Mapping[str, tuple[float, float]]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean of each channel of the named tensors, float64 [channels], as they are and in 256 steps of ``ranges``."""
        sums: dict[str, np.ndarray] = {}
        count: dict[str, int] = {}
        for name, tokens in self._tokens(model, names):
            step, zero = steps_of(*ranges[name])
            cut = (np.clip(np.rint(tokens / step) + zero, 0, 255) - zero) * step
            both = np.stack([tokens.sum(axis=0, dtype=float), cut.sum(axis=0, dtype=float)])
            sums[name] = sums.get(name, 0) + both
            count[name] = count.get(name, 0) + len(tokens)
        return {name: (both[0] / count[name], both[1] / count[name]) for name, both in sums.items()}

    def _tokens(self, model: ModelProto, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """(name, float32 [rows, channels]) of each batch and tensor."""
        names = list(dict.fromkeys(names))
        for _, mask, values in self._run(model, names):
            for name, value in zip(names, values, strict=True):
                # the last layer has one row a text
                yield name, value[mask.astype(bool)] if value.ndim == 3 else value

    def _run(self, model: ModelProto, names: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """(rows, mask, values of the named tensors) of each batch."""
        watched = ModelProto()
        watched.CopyFrom(model)
        known = {value.name for value in model.graph.output}
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = {node.name for node in session.get_inputs()}
        for batch in plan(self.encoded.lengths, TOKENS_A_BATCH):
            ids, mask = self.encoded.padded(batch.rows, batch.width, self.pad_id)
            feed: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            values = session.run(names, {name: value for name, value in feed.items() if name in wanted})
            yield batch.rows, mask, [np.asarray(value, dtype=np.float32) for value in values]
