"""Where a classifier is good and where it is not: dev rows cut by properties of their text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from jirgee.tokens import Encoded, TokenizerSpec

_EMOJI = re.compile("[\u2600-\u27bf\u2b50\u2b55\U0001f000-\U0001faff]")
LENGTHS = (0, 16, 32, 64, 128, 1 << 30)  # tokens


def cut(texts: Sequence[str], encoded: Encoded, spec: TokenizerSpec) -> dict[str, dict[str, np.ndarray]]:
    """Property -> slice -> bool [n]. Every row is in one slice of each property; slices without rows are left out."""
    lengths = encoded.lengths
    latin, unknown = latin_share(texts), unknown_share(encoded, spec)
    emoji = np.array([bool(_EMOJI.search(text)) for text in texts], dtype=bool)
    found = {
        "length": {
            f"{low + 1}–{high} tokens" if high < 1 << 30 else f"over {low} tokens": (low < lengths) & (lengths <= high)
            for low, high in pairwise(LENGTHS)
        },
        "cut at the limit": {"whole": ~encoded.truncated, "cut": encoded.truncated},
        "emoji": {"without": ~emoji, "with": emoji},
        "Latin script": {
            "no Latin letter": latin == 0,
            "up to half of the letters": (latin > 0) & (latin <= 0.5),
            "more than half": latin > 0.5,
        },
        "unknown pieces": {
            "none": unknown == 0,
            "up to 5 %": (unknown > 0) & (unknown <= 0.05),
            "more": unknown > 0.05,
        },
    }
    return {name: {part: rows for part, rows in parts.items() if rows.any()} for name, parts in found.items()}


def latin_share(texts: Sequence[str]) -> np.ndarray:
    """float [n]: the share of Latin letters among the letters, 0 without letters."""
    shares = []
    for text in texts:
        letters = [character for character in text if character.isalpha()]
        latin = sum(unicodedata.name(character, "").startswith("LATIN") for character in letters)
        shares.append(latin / len(letters) if letters else 0.0)
    return np.array(shares, dtype=float)


def unknown_share(encoded: Encoded, spec: TokenizerSpec) -> np.ndarray:
    """float [n]: the share of pieces that the tokenizer does not know among those that the model sees."""
    row = np.repeat(np.arange(len(encoded)), encoded.lengths)
    unknown = np.bincount(row[encoded.ids == spec.unk_id], minlength=len(encoded))
    return unknown / np.maximum(encoded.lengths - len(spec.prefix) - len(spec.suffix), 1)
