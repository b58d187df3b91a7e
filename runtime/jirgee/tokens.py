"""Texts -> ragged token ids.

A tokenizer is data: a model file and a ``TokenizerSpec`` (JSON in the checkpoint and in the bundle's manifest) that
says how its pieces become rows of the embedding table. Training, export and runtime all tokenise through this file,
because two tokenizers built from one model do differ on a few texts in a thousand.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from typing import Any

import numpy as np

from .errors import BundleError, optional_import

NORMALISERS: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
}


@dataclass(frozen=True)
class TokenizerSpec:
    """How texts become rows of the embedding table.

    ``kind``: a row of ``KINDS``. ``file``: the tokenizer's file name. ``offset``: embedding row = piece id + offset.
    ``unk_id``: the row of every unknown piece. ``prefix``, ``suffix``: rows put around each text. ``mask_id``: the row
    of the mask token, -1 if there is none (training only). ``normalise``: rows of ``NORMALISERS``, applied in order.
    """

    kind: str
    file: str
    unk_id: int
    pad_id: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    offset: int = 0
    mask_id: int = -1
    normalise: tuple[str, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise BundleError(f"unknown tokenizer kind {self.kind!r}; this jirgee knows {', '.join(KINDS)}")
        if unknown := [name for name in self.normalise if name not in NORMALISERS]:
            raise BundleError(f"unknown text normalisation {unknown[0]!r}; this jirgee knows {', '.join(NORMALISERS)}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenizerSpec:
        """Raises BundleError if a field is missing, unknown or of the wrong type."""
        try:
            values = dict(data)
            for name in ("prefix", "suffix", "normalise"):
                values[name] = tuple(values.get(name, ()))
            spec = cls(**values)
        except (TypeError, ValueError) as error:
            raise BundleError(f"tokenizer description is not understood: {error}") from None
        for field in fields(cls):
            if field.type == "int" and not _is_row(getattr(spec, field.name), -1):
                raise BundleError(f"tokenizer description: {field.name} must be a whole number of 32 bits")
        if not all(map(_is_row, spec.prefix + spec.suffix)):
            raise BundleError("tokenizer description: prefix and suffix must be lists of whole numbers of 32 bits")
        if type(spec.file) is not str:
            raise BundleError("tokenizer description: file must be a name")
        return spec


def _is_row(value: object, lowest: int = 0) -> bool:
    return type(value) is int and lowest <= value < 1 << 31


@dataclass(frozen=True)
class Encoded:
    """``ids``: int32 [total]; ``offsets``: int64 [n + 1], rising; text i is ``ids[offsets[i]:offsets[i + 1]]``.

    ``truncated``: bool [n], where a text was cut to the token limit.
    """

    ids: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n], tokens of each text, special tokens included; at least 1."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def padded(self, rows: np.ndarray, width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
        """The given rows as rectangles: ``input_ids`` and ``attention_mask``, int32 [len(rows), width]."""
        lengths = self.lengths[rows]
        mask = np.arange(width) < lengths[:, None]
        ids = np.full((len(rows), width), pad_id, dtype=np.int32)
        ids[mask] = np.concatenate([self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows])
        return ids, mask.astype(np.int32)


class Tokenizer:
    """A loaded tokenizer. Thread-safe. ``encode`` never raises for any ``str``."""

    def __init__(self, spec: TokenizerSpec, model: bytes, max_tokens: int):
        """``model``: the tokenizer file's bytes. ``max_tokens``: longest encoding, special tokens included."""
        room = max_tokens - len(spec.prefix) - len(spec.suffix)
        if room < 1:
            raise BundleError(f"max_tokens {max_tokens} leaves no room for text between the special tokens")
        self.spec, self.max_tokens, self._room = spec, max_tokens, room
        self._pieces, self._unknown, self._places = KINDS[spec.kind](spec, model)

    def encode(self, texts: Sequence[str], threads: int = 1) -> Encoded:
        """Encode ``texts``; each is cut to ``max_tokens``, keeping its beginning."""
        spec = self.spec
        pieces = self._pieces([self._clean(text) for text in texts], threads)
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        kept = np.minimum(lengths, self._room)
        offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
        np.cumsum(kept + len(spec.prefix) + len(spec.suffix), out=offsets[1:])

        ids = np.empty(offsets[-1], dtype=np.int32)
        is_piece = np.ones(len(ids), dtype=bool)
        ends = offsets[1:] - len(spec.suffix)
        for starts, special in ((offsets[:-1], spec.prefix), (ends, spec.suffix)):
            for step, row in enumerate(special):
                ids[starts + step], is_piece[starts + step] = row, False
        flat = chain.from_iterable(row[: self._room] for row in pieces)
        rows = np.fromiter(flat, dtype=np.int32, count=int(kept.sum()))
        ids[is_piece] = np.where(rows == self._unknown, spec.unk_id, rows + spec.offset)
        return Encoded(ids, offsets, lengths > self._room)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each piece of ``encode([text])`` stands, special tokens left out: ``text[start:end]``, ends rising.

        Where ``normalise`` makes a text longer or shorter, a place is the nearest character.
        """
        cleaned, kept = self._clean(text), []
        for start, end in self._places(cleaned)[: self._room]:
            kept.append((start, max(end, kept[-1][1] if kept else 0)))
        if len(cleaned) == len(text):
            return kept

        def original(place: int) -> int:
            return bisect_left(range(len(text)), place, key=lambda length: len(self._clean(text[:length])))

        return [(original(start), original(end)) for start, end in kept]

    def _clean(self, text: str) -> str:
        for name in self.spec.normalise:
            text = NORMALISERS[name](text)
        if not text.isascii():
            # A lone surrogate (half an emoji, cut by some API) has no UTF-8 form.
            text = text.encode("utf-8", "replace").decode("utf-8")
        return text


FEW = 64  # texts; for a list of them SentencePiece starts a thread, which costs as much as six texts
Segmenter = Callable[[list[str], int], list[list[int]]]  # (texts, threads) -> piece ids, no special tokens
Places = Callable[[str], list[tuple[int, int]]]  # text -> where each piece begins and ends, in characters


def _sentencepiece(spec: TokenizerSpec, model: bytes) -> tuple[Segmenter, int, Places]:
    """A segmenter, the piece id that it gives to what it does not know, and a finder of places."""
    from sentencepiece import SentencePieceProcessor

    try:
        if not model:  # which SentencePiece takes for "load nothing yet"
            raise RuntimeError("the file is empty")
        processor = SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise BundleError(f"{spec.file} is not a SentencePiece model ({error})") from None

    def segment(texts: list[str], threads: int) -> list[list[int]]:
        if len(texts) <= FEW:
            return [processor.encode(text, out_type=int) for text in texts]
        return processor.encode(texts, out_type=int, num_threads=threads)

    def places(text: str) -> list[tuple[int, int]]:
        try:
            return processor.encode(text, out_type="offset_mapping")["offsets"]
        except (ValueError, RuntimeError):  # sentencepiece < 0.2.3
            older: Any = "immutable_proto"
            return [(piece.begin, piece.end) for piece in processor.encode(text, out_type=older).pieces]

    return segment, processor.unk_id(), places


def _tokenizers(spec: TokenizerSpec, model: bytes) -> tuple[Segmenter, int, Places]:
    """Hugging Face ``tokenizer.json`` (WordPiece and others); its own special tokens are left to the spec."""
    tokenizers = optional_import("tokenizers", "tokenizers", f"a bundle with {spec.file}")
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(model)
    except ValueError as error:
        raise BundleError(f"{spec.file} is not a tokenizer.json ({error})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def segment(texts: list[str], threads: int) -> list[list[int]]:
        return [row.ids for row in tokenizer.encode_batch(texts, add_special_tokens=False)]

    def places(text: str) -> list[tuple[int, int]]:
        return tokenizer.encode(text, add_special_tokens=False).offsets

    return segment, spec.unk_id, places


KINDS: dict[str, Callable[[TokenizerSpec, bytes], tuple[Segmenter, int, Places]]] = {
    "sentencepiece": _sentencepiece,
    "tokenizers": _tokenizers,
}
