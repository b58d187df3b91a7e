"""Cuts a vocabulary to the pieces that given texts use, and proves that nothing else changed.

Of a multilingual vocabulary one language uses a few pieces in a hundred, and the embedding table is most of such a
model. Kept are the pieces of the texts; those of a single character, of every script that the texts use, so that no
ordinary word is unknown; and whatever is not an ordinary piece. The pieces of the lowest and of the highest score stay
too, because SentencePiece scores unknown characters and user-defined pieces by them. So a unigram model cuts every text
whose pieces are all kept as it did before: its best cut is still there, with the same score, and no new one is.

The proof does not rest on that: all texts are cut by both tokenizers, and logits are compared.
"""

from __future__ import annotations

import shutil
import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from jirgee.bundle import NGRAMS
from jirgee.checkpoint import Settings
from jirgee.errors import GateError, InputError
from jirgee.tokens import Tokenizer, TokenizerSpec
from jirgee.wire import WireError, field, fields, same

from .reference import torch_logits
from .sources import Checkpoint
from .verify import Limits

LOGIT_TOLERANCE = 1e-5
LONGEST = 1 << 20  # tokens: nothing is cut off
PROOF_TEXTS = 256  # whose logits are compared; token sequences are compared on all
NORMAL, UNIGRAM = 1, 1  # SentencePiece.Type, TrainerSpec.ModelType
# Fields of sentencepiece_model.proto.
PIECES, TRAINER, PIECE, SCORE, TYPE, MODEL_TYPE, VOCABULARY = 1, 2, 1, 2, 3, 3, 4


@dataclass(frozen=True)
class Trimming:
    """What was cut, for the report. ``pieces``: before and after. ``kept_share``: of the pieces in the texts, those
    that are still there. ``unseen_share``: of the pieces in new texts like these, those that these texts do not hold,
    as Good and Turing estimate it (Good 1953). ``texts``, ``whole``: texts, and those whose pieces are all kept.
    ``compared``: texts whose logits were compared, ``max_logit_change``: the result. ``accuracy``: on held-out rows,
    before and after, and ``flips``: how many labels changed there; None without such rows.
    """

    pieces: tuple[int, int]
    kept_share: float
    unseen_share: float
    texts: int
    whole: int
    compared: int
    max_logit_change: float
    accuracy: tuple[float, float] | None = None
    flips: int | None = None

    def judged(self, before: np.ndarray, after: np.ndarray, gold: np.ndarray, limits: Limits) -> Trimming:
        """With what it does to held-out rows, not all of whose pieces are kept: probabilities [n, k], ``gold`` int [n].

        Raises GateError if accuracy drops more than ``limits`` allow.
        """
        accuracy = tuple(float((probs.argmax(axis=1) == gold).mean()) for probs in (before, after))
        drop = 100 * (accuracy[0] - accuracy[1])
        if drop > max(limits.max_drop, 100 / len(gold)) + 1e-9:
            raise GateError(
                f"refused: with the trimmed vocabulary accuracy on held-out rows drops {drop:.2f} points (limit "
                f"{limits.max_drop:g}: --max-drop); trim to more texts, or to rarer pieces; nothing was written"
            )
        flips = int((before.argmax(axis=1) != after.argmax(axis=1)).sum())
        return replace(self, accuracy=(accuracy[0], accuracy[1]), flips=flips)

    def __str__(self) -> str:
        return (
            f"{self.pieces[0]:,} -> {self.pieces[1]:,} pieces; kept are {100 * self.kept_share:.2f} % of those in the "
            f"texts (of those in new texts like these about {100 * self.unseen_share:.2f} % are in none of them); "
            f"{self.whole:,} of {self.texts:,} texts are cut as before, and {self.compared} of them have the same "
            f"logits (difference {self.max_logit_change:.1g})"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece unigram model, read off its bytes. Lists by piece id."""

    names: list[str]
    scores: list[float]
    ordinary: np.ndarray

    @classmethod
    def read(cls, model: bytes, place: object) -> Pieces:
        """Raises InputError unless ``model`` is a unigram model."""
        names, scores, ordinary, kind = [], [], [], UNIGRAM
        try:
            for number, _, value in fields(memoryview(model)):
                if number == PIECES and isinstance(value, memoryview):
                    parts = {n: part for n, _, part in fields(value)}
                    names.append(bytes(parts[PIECE]).decode())  # pyright: ignore[reportArgumentType]
                    scores.append(struct.unpack("<f", parts[SCORE])[0] if SCORE in parts else 0.0)  # pyright: ignore[reportArgumentType]
                    ordinary.append(parts.get(TYPE, NORMAL) == NORMAL)
                elif number == TRAINER and isinstance(value, memoryview):
                    kind = {n: part for n, _, part in fields(value)}.get(MODEL_TYPE, kind)
        except (WireError, KeyError, UnicodeDecodeError, struct.error, TypeError) as error:
            raise InputError(f"is not a SentencePiece model ({error})", place) from None
        if kind != UNIGRAM or not any(ordinary):
            raise InputError("is not a unigram model: its vocabulary cannot be cut; leave --trim-to out", place)
        return cls(names, scores, np.array(ordinary))

    def kept(self, counts: np.ndarray, least: int) -> np.ndarray:
        """bool [pieces]: which to keep, when the texts hold each piece ``counts`` times."""
        used = [name for name, count in zip(self.names, counts, strict=True) if count]
        scripts = {_script(character) for character in set("".join(used))}
        keep = (counts >= least) | ~self.ordinary
        keep |= [_script(name.removeprefix("▁") or name) in scripts for name in self.names]
        normal = np.flatnonzero(self.ordinary)
        scores = np.array(self.scores)[normal]
        keep[[normal[scores.argmin()], normal[scores.argmax()]]] = True
        return keep


def _script(character: str) -> str:
    """A letter's script, as the first word of its Unicode name; the general category of anything else."""
    if len(character) != 1:
        return ""
    kind = unicodedata.category(character)[0]
    return unicodedata.name(character, "").partition(" ")[0] if kind == "L" else kind


def cut_pieces(model: bytes, keep: np.ndarray) -> bytes:
    """A serialised SentencePiece model with the kept pieces only, everything else as it is."""
    out, piece = [], 0
    for part in fields(memoryview(model)):
        piece += part[0] == PIECES
        if part[0] != PIECES or keep[piece - 1]:
            out.append(same(*part))
    out.append(field(TRAINER, field(VOCABULARY, int(keep.sum()))))  # a parser merges it into the one before
    return b"".join(out)


def cut_rows(spec: TokenizerSpec, keep: np.ndarray, rows: int) -> tuple[TokenizerSpec, np.ndarray]:
    """The tokenizer's description after the cut, and the old row of each new one, int64 [new rows].

    ``keep`` bool [pieces], ``rows``: of the embedding table. Raises InputError if the table is not laid out by piece.
    """
    specials = {*range(spec.offset), *spec.prefix, *spec.suffix, spec.pad_id, spec.unk_id, spec.mask_id} - {-1}
    old = np.array(sorted(specials | set((np.flatnonzero(keep) + spec.offset).tolist())))
    if old[-1] >= rows:
        raise InputError(f"row {old[-1]} of the tokenizer is not in the embedding table of {rows} rows", spec.file)
    new = np.full(rows, -1)
    new[old] = np.arange(len(old))
    expected = np.arange(int(keep.sum())) + spec.offset
    if not np.array_equal(new[np.flatnonzero(keep) + spec.offset], expected):
        raise InputError("special rows lie between those of pieces: its vocabulary cannot be cut", spec.file)
    return (
        replace(
            spec,
            unk_id=int(new[spec.unk_id]),
            pad_id=int(new[spec.pad_id]),
            mask_id=int(new[spec.mask_id]) if spec.mask_id >= 0 else -1,
            prefix=tuple(int(new[row]) for row in spec.prefix),
            suffix=tuple(int(new[row]) for row in spec.suffix),
        ),
        old,
    )


def cut_table(model: PreTrainedModel, rows: np.ndarray) -> None:
    """Keep only ``rows`` of the token embeddings of ``model``, in place."""
    table: Any = model.get_input_embeddings()
    weight = table.weight.detach()[torch.from_numpy(rows)].clone()
    padding = None if table.padding_idx is None else int(np.searchsorted(rows, table.padding_idx))
    model.set_input_embeddings(torch.nn.Embedding(*weight.shape, padding_idx=padding, _weight=weight))
    model.config.vocab_size = len(rows)
    if (padding_id := model.config.pad_token_id) is not None:
        model.config.pad_token_id = int(np.searchsorted(rows, padding_id))


def trim_checkpoint(opened: Checkpoint, texts: Sequence[str], least: int, out: Path) -> tuple[Checkpoint, Trimming]:
    """``opened`` with the vocabulary of ``texts``, its files in the new directory ``out``. Its model is changed."""
    settings, tokenizer, found = trim(opened.model, opened.settings, opened.tokenizer, texts, least)
    out.mkdir()
    (out / settings.tokenizer.file).write_bytes(tokenizer)
    if settings.ngram_weight:
        shutil.copy(opened.path / NGRAMS, out)
    return replace(opened, path=out, settings=settings), found


def trim(
    model: PreTrainedModel, settings: Settings, tokenizer: bytes, texts: Sequence[str], least: int
) -> tuple[Settings, bytes, Trimming]:
    """Cut the vocabulary of ``model`` (in place) and of ``tokenizer`` to pieces that ``texts`` hold ``least`` times.

    Returns settings and tokenizer after the cut and what was cut.
    Raises GateError if a text whose pieces are all kept is cut otherwise or gets other logits, InputError for a
    tokenizer that this cannot do.
    """
    spec, place = settings.tokenizer, settings.tokenizer.file
    if spec.kind != "sentencepiece":
        raise InputError("is not a SentencePiece model: its vocabulary cannot be cut; leave --trim-to out", place)
    texts = list(dict.fromkeys(texts))
    pieces = Pieces.read(tokenizer, place)
    found = Tokenizer(spec, tokenizer, LONGEST).encode(texts)
    size = len(model.get_input_embeddings().weight)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
    used = np.bincount(found.ids, minlength=size)
    for row in (*spec.prefix, *spec.suffix):
        used[row] -= len(texts)
    if not used.sum():
        raise InputError("the texts to trim to hold no pieces", place)
    keep = pieces.kept(used[spec.offset : spec.offset + len(pieces.names)], least)
    cut, rows = cut_rows(spec, keep, size)
    changed, smaller = replace(settings, tokenizer=cut), cut_pieces(tokenizer, keep)
    stays = np.isin(np.arange(size), rows)

    gone = np.add.reduceat(~stays[found.ids], found.offsets[:-1])
    whole = [text for text, lost in zip(texts, gone, strict=True) if not lost]
    old, new = Tokenizer(spec, tokenizer, LONGEST).encode(whole), Tokenizer(cut, smaller, LONGEST).encode(whole)
    if not (np.array_equal(old.offsets, new.offsets) and np.array_equal(old.ids, rows[new.ids])):
        raise GateError(
            f"refused: trimmed, {place} cuts a text otherwise whose pieces are all kept; nothing was written"
        )

    sample = whole[:: max(1, len(whole) // PROOF_TEXTS)][:PROOF_TEXTS]
    reference = torch_logits(model, Tokenizer(spec, tokenizer, settings.max_tokens).encode(sample), spec.pad_id)
    cut_table(model, rows)
    again = torch_logits(model, Tokenizer(cut, smaller, settings.max_tokens).encode(sample), cut.pad_id)
    change = float(np.abs(again - reference).max()) if len(sample) else 0.0
    if not change <= LOGIT_TOLERANCE:
        raise GateError(
            f"refused: with a trimmed vocabulary a logit of a text whose pieces are all kept changes by {change:.2g} "
            f"(limit {LOGIT_TOLERANCE:g}); nothing was written"
        )
    trimming = Trimming(
        pieces=(len(keep), int(keep.sum())),
        kept_share=float(used[rows].sum() / used.sum()),
        unseen_share=float((used == 1).sum() / used.sum()),
        texts=len(texts),
        whole=len(whole),
        compared=len(sample),
        max_logit_change=change,
    )
    return changed, smaller, trimming
