"""What character n-grams know: a hashed TF-IDF linear model, evaluated with numpy alone.

On a few thousand noisy tweets such a model is as good as a fine-tuned encoder and knows other things; a hybrid bundle
adds its logits to the encoder's. Features are those of scikit-learn's ``TfidfVectorizer(analyzer="char",
sublinear_tf=True)`` with the hashing trick (Weinberger et al. 2009, arXiv:0902.2206) in the place of a vocabulary.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from .errors import BundleError

SHORTEST, LONGEST = 2, 5  # characters in an n-gram
MOST_BITS = 24  # of a bucket's number: what a file may ask for
_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class Counts:
    """How often each bucket occurs in each text, as three int64/float32 arrays of equal length, sorted by row."""

    row: np.ndarray
    bucket: np.ndarray
    count: np.ndarray


def count_ngrams(texts: Sequence[str], bits: int) -> Counts:
    """Count the n-grams of ``texts`` (lower-cased, white space collapsed) in ``2 ** bits`` buckets."""
    cleaned = [" ".join(text.lower().split()) for text in texts]
    points = np.frombuffer("".join(cleaned).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, cleaned), dtype=np.int64, count=len(cleaned))
    row = np.repeat(np.arange(len(cleaned)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(points))  # characters up to the text's end
    rolling = np.zeros(len(points), dtype=np.uint64)
    keys = []
    for n in range(1, LONGEST + 1):
        rolling = rolling[: max(0, len(points) - n + 1)] * _STEP + points[n - 1 :] + np.uint64(1)
        if n >= SHORTEST:
            inside = left[: len(rolling)] >= n
            mixed = (rolling[inside] ^ (rolling[inside] >> np.uint64(29))) * _MIX
            keys.append((row[: len(rolling)][inside] << bits) | (mixed >> np.uint64(64 - bits)).astype(np.int64))
    key, count = np.unique(np.concatenate(keys), return_counts=True)
    return Counts(key >> bits, key & ((1 << bits) - 1), count.astype(np.float32))


AT_ONCE = 64


@dataclass(frozen=True)
class NgramModel:
    """``idf``: float32 [2**bits], 0 for a bucket that is not used. ``weights``: float32 [2**bits, k]. ``bias``: [k]."""

    idf: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @property
    def bits(self) -> int:
        return len(self.idf).bit_length() - 1

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, k]. A few texts at a time: a tweet has some 500 n-grams, and each takes 100 bytes on the way."""
        parts = [self._logits(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.bias)), np.float32)

    def _logits(self, texts: Sequence[str]) -> np.ndarray:
        counts = count_ngrams(texts, self.bits)
        values = (1 + np.log(counts.count)) * self.idf[counts.bucket]
        norms = np.sqrt(np.bincount(counts.row, values * values, minlength=len(texts)))
        values /= np.maximum(norms, 1e-12)[counts.row]
        columns = [
            np.bincount(counts.row, values * self.weights[counts.bucket, column], minlength=len(texts))
            for column in range(len(self.bias))
        ]
        return (np.stack(columns, axis=1) + self.bias).astype(np.float32)

    def to_bytes(self) -> bytes:
        """The model as a file: a numpy ``.npz`` of the buckets that are used (a quarter of 2 ** 18, after two thousand
        tweets), in 16 bits. Which ones is a bit each, so that the file is small without being compressed.
        """
        used = self.idf > 0
        arrays: dict[str, Any] = {
            "idf": self.idf[used].astype(np.float16),
            "weights": self.weights[used].astype(np.float16),
        }
        arrays |= {"used": np.packbits(used), "bias": self.bias.astype(np.float32)}
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, classes: int) -> NgramModel:
        """Raises BundleError unless ``data`` is a model for ``classes`` classes. Nothing is unpickled or inflated."""
        try:
            with ZipFile(io.BytesIO(data)) as archive:
                if any(
                    entry.compress_type != ZIP_STORED or entry.file_size > len(data) for entry in archive.infolist()
                ):
                    raise ValueError("it is compressed")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                idf, weights, bias = (np.asarray(arrays[name], np.float32) for name in ("idf", "weights", "bias"))
                bits = np.asarray(arrays["used"]) if "used" in arrays else np.full(len(idf) // 8, 255, np.uint8)
            size = 8 * len(bits) if bits.ndim == 1 and bits.dtype == np.uint8 else 0
            if size < 8 or size & (size - 1) or size > 1 << MOST_BITS:
                raise ValueError("the number of buckets is not a power of two")
            used = np.unpackbits(bits).astype(bool)
        except (
            ValueError,
            KeyError,
            OSError,
            EOFError,
            MemoryError,
            NotImplementedError,
            BadZipFile,
            struct.error,
        ) as error:
            raise BundleError(f"the n-gram model cannot be read ({error})") from None
        count = int(used.sum())
        if idf.shape != (count,) or weights.shape != (count, classes) or bias.shape != (classes,):
            raise BundleError(f"the n-gram model's arrays do not fit {classes} classes")
        model = cls(np.zeros(size, np.float32), np.zeros((size, classes), np.float32), bias)
        model.idf[used], model.weights[used] = idf, weights
        return model
