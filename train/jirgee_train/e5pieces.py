"""Which rows of multilingual-e5-small's vocabulary a language needs, and the SentencePiece model of those.

Rows: fairseq's <s> 0, <pad> 1, </s> 2, <unk> 3; then SentencePiece id + 1; then <mask>; and, untrimmed, the
original's 35 unused ones. The normaliser is the installed sentencepiece's, of a newer Unicode than the
original's: 174 single characters come out differently, of which tweets know one, the zero-width joiner U+200D
inside some emoji, here <unk>, there a space.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Collection, Iterable
from importlib import import_module
from itertools import chain, islice
from pathlib import Path

import numpy as np
import sentencepiece

from jirgee.errors import optional_import

from .e5file import ROWS, SPECIALS, E5Small, locate, read

PREFIXES = ("query: ", "passage: ")
_MONGOLIAN = Path(__file__).with_name("data") / "e5_small_mn.npy"


def count_pieces(texts: Iterable[str], spm_bytes: bytes) -> np.ndarray:
    """How often each piece of a serialised SentencePiece model occurs in ``texts``: int64 [pieces], by id."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=spm_bytes)
    counts = np.zeros(processor.get_piece_size(), np.int64)
    iterator = iter(texts)
    while window := list(islice(iterator, 8192)):
        ids = np.fromiter(chain.from_iterable(processor.encode(window)), np.int64)
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def keep_from_texts(
    texts: Iterable[str], minimum: int = 2, scripts: Collection[str] = (), model: E5Small | None = None
) -> np.ndarray:
    """The rows that a language needs, as ``write`` takes them: bool [rows].

    Kept are the pieces that occur at least ``minimum`` times when the untrimmed model cuts ``texts``, those
    of e5's prefixes and, so that little in a new text is unknown, each single character, alone or after "▁",
    that is an ASCII letter, a digit, punctuation, a symbol, an emoji, or a letter of ``scripts``: first words
    of Unicode names, such as "CYRILLIC" or "GEORGIAN". About 1 s per 100,000 tweets. ``model`` defaults to
    the installed one.
    """
    model = model or read(locate())
    counts = count_pieces(chain(PREFIXES * minimum, texts), sentencepiece_model(model))
    keep = np.zeros(model.rows, bool)
    keep[1 : 1 + len(counts)] = counts >= minimum
    keep[: len(model.pieces)] |= [_is_common(piece, scripts) for piece in model.pieces]
    keep[:SPECIALS] = True
    return keep


def _is_common(piece: str, scripts: Collection[str]) -> bool:
    character = piece.removeprefix("▁") or piece
    if len(character) != 1:
        return False
    kind = unicodedata.category(character)[0]
    if kind == "L":
        return character.isascii() or unicodedata.name(character, "").partition(" ")[0] in scripts
    return kind in "NPS" or character == "\ufe0f"  # U+FE0F asks for the coloured form of an emoji


def keep_mongolian() -> np.ndarray:
    """The keep set for Mongolian that comes with this package: bool [rows].

    Made by ``keep_from_texts(lines, scripts=["CYRILLIC"])`` from 108,471 public lines of tweets, news,
    novels, parliamentary hearings and lyrics; it keeps 99.7 % of their pieces.
    """
    bits = np.load(_MONGOLIAN, allow_pickle=False)
    return np.unpackbits(bits, count=ROWS).astype(bool)


def kept_rows(model: E5Small, keep: np.ndarray | None) -> np.ndarray:
    """Rows of the original in the order they are written: int64 [kept].

    With ``keep``, unused rows go, while the specials stay and so does the lowest-scored piece: SentencePiece
    scores an unknown character 10 below it, and as long as that does not change, the trimmed model cuts every
    text whose pieces are all kept as the untrimmed one does.
    """
    if keep is None:
        return np.arange(model.rows)
    if keep.shape != (model.rows,) or keep.dtype != bool:
        raise ValueError(f"keep must be bool [{model.rows}], is {keep.dtype} {list(keep.shape)}")
    mask = len(model.pieces) - 1
    kept = keep[: mask + 1].copy()
    kept[[*range(SPECIALS), SPECIALS + int(model.scores[SPECIALS:mask].argmin()), mask]] = True
    return np.flatnonzero(kept)


def sentencepiece_model(model: E5Small, keep: np.ndarray | None = None) -> bytes:
    """The kept pieces as a serialised SentencePiece model: <unk> 0, <s> 1, </s> 2, then the old order."""
    optional_import("google.protobuf", "jirgee[train]", "writing a SentencePiece model (protobuf)")
    schema = import_module("sentencepiece.sentencepiece_model_pb2")
    kinds = schema.ModelProto.SentencePiece
    proto = schema.ModelProto()
    proto.trainer_spec.model_type = schema.TrainerSpec.UNIGRAM
    proto.normalizer_spec.CopyFrom(_nmt_nfkc(schema))
    for piece, kind in (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for row in kept_rows(model, keep).tolist():
        if SPECIALS <= row < len(model.pieces) - 1:
            proto.pieces.add(piece=model.pieces[row], score=model.scores[row])
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString()


def _nmt_nfkc(schema):
    """The normaliser that XLM-R was trained with, out of a throwaway model of one letter (0.03 s)."""
    model = io.BytesIO()
    settings = {"model_type": "char", "vocab_size": 5, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a"]), model_writer=model, normalization_rule_name="nmt_nfkc", **settings
    )
    return schema.ModelProto.FromString(model.getvalue()).normalizer_spec
