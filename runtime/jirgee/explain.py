"""Why a text got its label: what each piece did to the score, and where the attention heads look.

Occlusion (Zeiler & Fergus 2014, arXiv:1311.2901; for text Li, Monroe & Jurafsky 2016, arXiv:1612.08220): every piece in
turn is replaced by the mask token, or left out where the tokenizer has none, and the text is scored again; all variants
are one planned batch. The n-grams of a hybrid read the text without the piece. docs/explain.md says how to read it.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import MachineError
from .scorer import Scorer
from .tokens import Encoded, Tokenizer

REPLACEMENTS = ("mask", "deletion")


@dataclass(frozen=True)
class Unit:
    """Something to see: the characters ``start:end`` of the text, and the tokens ``first:last`` (special ones counted)
    that stand for it. Several where some of them show nothing, as the second half of "㎏" or a lone space."""

    start: int
    end: int
    first: int
    last: int


def units(tokenizer: Tokenizer, text: str) -> list[Unit]:
    """The text's pieces in order, as far as the token limit reaches. Each begins where the one before it ended."""
    found, place, first = [], 0, len(tokenizer.spec.prefix)
    spans = tokenizer.spans(text)
    for index, (_, end) in enumerate(spans):
        last = len(tokenizer.spec.prefix) + index + 1
        if text[place:end].strip():
            found.append(Unit(place, end, first, last))
            place, first = end, last
        elif index + 1 == len(spans) and found:  # shows nothing, and nothing follows
            found[-1] = Unit(found[-1].start, max(end, found[-1].end), found[-1].first, last)
    return found


def occlude(scorer: Scorer, text: str, replacement: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 of the whole text [k] and without each of its ``units`` [n, k]."""
    spec = scorer.bundle.tokenizer
    ids = scorer.tokenizer.encode([text]).ids
    rows, texts = [ids], [text]
    for unit in units(scorer.tokenizer, text):
        put = np.full(unit.last - unit.first if replacement == "mask" else 0, spec.mask_id, ids.dtype)
        rows.append(np.concatenate([ids[: unit.first], put, ids[unit.last :]]))
        texts.append(text[: unit.start] + text[unit.end :])
    offsets = np.cumsum([0, *map(len, rows)])
    probs = scorer.score_ids(Encoded(np.concatenate(rows), offsets, np.zeros(len(rows), bool)), texts)
    return probs[0], probs[1:]


def log_odds(probs: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) of each class, float64; ``probs`` [..., k]. With two classes, the difference of the logits.

    The other classes are added up one by one, so that a p of nearly 1 is told exactly.
    """
    probs = np.maximum(np.asarray(probs, np.float64), 1e-30)
    others = [np.delete(probs, place, axis=-1).sum(axis=-1) for place in range(probs.shape[-1])]
    return np.log(probs) - np.log(np.stack(others, axis=-1))


def explain(scorer: Scorer, text: str, attention: bool = True) -> dict[str, Any]:
    """What ``jirgee explain --json`` prints and ``POST /v1/explain`` answers, ready for JSON.

    ``label``, ``probs`` (label -> probability, computed beside the variants), ``truncated``; ``tokens``: for each piece
    its ``text`` (joined, they are the beginning of ``text``), ``start`` and ``end``, ``effect`` (label -> how far the
    piece moved the log-odds) and ``without`` (label -> probability without it); ``replacement``: how it was taken
    away; ``attention``: see ``packed_attention``, null if not wanted or not in the bundle. Raises what scoring raises.
    """
    if not isinstance(text, str):
        raise TypeError(f"explain takes one text, not {type(text).__name__}")
    classes = list(scorer.bundle.labels)
    replacement = "mask" if scorer.bundle.tokenizer.mask_id >= 0 else "deletion"
    try:
        whole, without = occlude(scorer, text, replacement)
    except MachineError:
        if replacement == "deletion":
            raise
        replacement = "deletion"  # an embedding table that was cut before the mask token
        whole, without = occlude(scorer, text, replacement)
    effects = log_odds(whole) - log_odds(without)
    found = units(scorer.tokenizer, text)
    return {
        "text": text,
        "label": classes[int(whole.argmax())],
        "probs": _named(whole, classes),
        "truncated": bool(scorer.tokenizer.encode([text]).truncated[0]),
        "tokens": [
            {
                "text": text[unit.start : unit.end],
                "start": unit.start,
                "end": unit.end,
                "effect": _named(effect, classes),
                "without": _named(probs, classes),
            }
            for unit, effect, probs in zip(found, effects, without, strict=True)
        ],
        "replacement": replacement,
        "attention": packed_attention(scorer, text, found) if attention and scorer.heads else None,
    }


def packed_attention(scorer: Scorer, text: str, found: list[Unit]) -> dict[str, Any]:
    """``weights``: base64 of uint8 [layers, heads, m, m], where each token looks, 255 for all of it. The m places are
    ``before`` special tokens, the text's units and ``after`` special tokens.

    A unit of several tokens is looked at as much as all of them, and looks as they do on average.
    """
    assert scorer.heads is not None
    spec = scorer.bundle.tokenizer
    weights = scorer.heads(scorer.tokenizer.encode([text]).ids)
    width = weights.shape[-1]
    special = [*range(len(spec.prefix)), *range(width - len(spec.suffix), width)]
    groups = sorted([(unit.first, unit.last) for unit in found] + [(place, place + 1) for place in special])
    member = np.zeros((len(groups), width), np.float32)
    for row, (first, last) in enumerate(groups):
        member[row, first:last] = 1
    seen = (member / member.sum(axis=1, keepdims=True)) @ weights @ member.T
    return {
        "layers": weights.shape[0],
        "heads": weights.shape[1],
        "before": len(spec.prefix),
        "after": len(spec.suffix),
        "weights": b64encode(np.rint(255 * seen.clip(0, 1)).astype(np.uint8).tobytes()).decode(),
    }


def _named(values: np.ndarray, classes: list[str]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(classes, values, strict=True)}
