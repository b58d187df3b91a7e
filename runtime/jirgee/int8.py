"""How this CPU multiplies 8-bit integers in onnxruntime: asked by a tiny model, not guessed from a list of flags.

Without 8-bit dot products (VNNI, AMX, ARM dotprod) onnxruntime's x86 kernels use VPMADDUBSW, which adds pairs of
unsigned x signed products in 16 bits and saturates: 255 * 127 + 255 * 127 = 64,770 becomes 32,767 (onnxruntime issues
#6004, #12072). 8-bit weights then give other scores than on the machine where they were verified; 7-bit weights do
not, because their pairs fit. The model is one MatMulInteger whose weights are constant, as a bundle's are.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .providers import open_session
from .wire import field

EXACT, SATURATING, UNKNOWN = "exact", "saturating", "unknown"
DEPTH, WIDTH = 64, 48
UINT8, INT8, INT32 = 2, 3, 6  # TensorProto.DataType
PEAK = 255  # of every activation


def weights() -> np.ndarray:
    """int8 [DEPTH, WIDTH]: columns of the largest and the smallest weight, and columns whose pairs fit 16 bits."""
    columns = np.array([127, -128, 64, -64, 1, -1], dtype=np.int8)
    return np.ascontiguousarray(np.broadcast_to(np.resize(columns, WIDTH), (DEPTH, WIDTH)))


def probe_model() -> bytes:
    """The model as an ONNX file: ``activations`` uint8 [n, DEPTH] -> ``sums`` int32 [n, WIDTH]."""
    node = field(1, "activations") + field(1, "weights") + field(2, "sums") + field(4, "MatMulInteger")
    table = weights()
    tensor = b"".join(field(1, size) for size in table.shape) + field(2, INT8) + field(8, "weights")
    tensor += field(9, table.tobytes())
    graph = field(1, node) + field(2, "probe") + field(5, tensor)
    graph += field(11, _value("activations", UINT8, DEPTH)) + field(12, _value("sums", INT32, WIDTH))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def _value(name: str, kind: int, width: int) -> bytes:
    """A ValueInfoProto: a tensor [n, width]."""
    shape = field(1, field(2, "n")) + field(1, field(1, width))
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def exact_sums(rows: int) -> np.ndarray:
    """What the model gives for ``rows`` rows of PEAK, int32 [rows, WIDTH], without saturation."""
    return np.broadcast_to(PEAK * weights().astype(np.int32).sum(axis=0), (rows, WIDTH))


def saturated_sums(rows: int) -> np.ndarray:
    """The same with pairs of products added in 16 bits."""
    products = PEAK * weights().astype(np.int32)
    pairs = np.clip(products[0::2] + products[1::2], -(1 << 15), (1 << 15) - 1)
    return np.broadcast_to(pairs.sum(axis=0), (rows, WIDTH))


def verdict(sums: np.ndarray) -> str:
    """EXACT, SATURATING or, for sums [rows, WIDTH] that are neither, UNKNOWN."""
    if np.array_equal(sums, exact_sums(len(sums))):
        return EXACT
    return SATURATING if np.array_equal(sums, saturated_sums(len(sums))) else UNKNOWN


@lru_cache(maxsize=1)
def probe() -> str:
    """What this CPU does: the worst of what kernels for one row and for many rows say. About 2 ms, asked once."""
    session = open_session(probe_model(), "cpu", intra_threads=1)
    found = [
        verdict(np.asarray(session.run(None, {"activations": np.full((rows, DEPTH), PEAK, np.uint8)})[0]))
        for rows in (1, 2, 7, 64)
    ]
    return max(found, key=(EXACT, SATURATING, UNKNOWN).index)
