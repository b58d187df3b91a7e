"""Which texts repeat which: exact and near duplicates, as groups that a split must not part.

A retweet, a reposted joke, a template with another number: a model that saw one has seen the other. Texts are compared
without what a repost changes, then by the Jaccard similarity of their character shingles.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jirgee.labelled import Labelled

SHINGLE = 4  # characters
SIMILAR = 0.7  # Jaccard similarity of near duplicates: one word of eight may differ
SHORTEST = 20  # shingles; shorter texts are too easily alike and are compared exactly
BANDS, BAND = 20, 4  # bands of so many MinHash values; a pair that agrees in one whole band is compared
CANDIDATES = 100_000  # pairs of a band at most; only thousands of texts from one template reach it
_STEP = np.uint64(0x9E3779B97F4A7C15)
_RETWEET = re.compile(r"^\W*(?:rt\s+@\w+\s*:?\s*)+", re.IGNORECASE)
_LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


class _Letters(dict[int, int]):
    """For ``str.translate``: punctuation, symbols and emoji become spaces; letters, marks and digits stay."""

    def __missing__(self, point: int) -> int:
        self[point] = ord(" ") if unicodedata.category(chr(point))[0] in "PSZC" else point
        return self[point]


_LETTERS = _Letters()


def normalise(text: str) -> str:
    """``text`` without ``RT @user:``, links, case, punctuation and emoji; a text of nothing else keeps its signs."""
    text = unicodedata.normalize("NFKC", text)
    bare = _LINK.sub(" ", _RETWEET.sub("", text)).casefold().translate(_LETTERS)
    return " ".join(bare.split()) or " ".join(text.split())


@dataclass(frozen=True)
class Groups:
    """int64 [n] each; rows with one number belong together. ``texts``: equal or nearly equal texts. ``units``: those,
    and rows that share a name in their ``group`` column: what a split must keep on one side.
    """

    texts: np.ndarray
    units: np.ndarray

    def take(self, rows: slice | np.ndarray) -> Groups:
        return Groups(self.texts[rows], self.units[rows])


def group_rows(rows: Labelled) -> Groups:
    alike = _linked_by_text(rows.texts)
    return Groups(_components(len(rows), alike), _components(len(rows), [*alike, *_linked_by_name(rows.groups)]))


def _linked_by_name(names: Sequence[str]) -> list[np.ndarray]:
    return _equal([name or None for name in names])


def _linked_by_text(texts: Sequence[str]) -> list[np.ndarray]:
    cleaned = [normalise(text) for text in texts]
    distinct, first = np.unique(np.array(cleaned, dtype=object), return_index=True)
    cut = [row for row in map(int, first) if texts[row].rstrip().endswith(("…", "..."))]
    pairs = [_equal(cleaned), _cut_short(cleaned, cut, list(distinct), first), [first[near_pairs(list(distinct))]]]
    return [pair for part in pairs for pair in part if len(pair)]


def _equal(names: Sequence[str | None]) -> list[np.ndarray]:
    """Every row with the first row of its name, as one array [m, 2]."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(name, row), row) for row, name in enumerate(names) if name is not None]
    return [np.array(pairs, dtype=np.int64).reshape(-1, 2)]


def _cut_short(cleaned: list[str], cut: list[int], distinct: list[str], first: np.ndarray) -> list[np.ndarray]:
    """Rows ``cut`` with the texts that begin as they do: an old retweet ends in "…" where 140 characters ended."""
    pairs = []
    for row in cut:
        text = cleaned[row]
        place = bisect_left(distinct, text) + 1
        while len(text) >= SHORTEST + SHINGLE and place < len(distinct) and distinct[place].startswith(text):
            pairs.append((row, first[place]))
            place += 1
    return [np.array(pairs, dtype=np.int64).reshape(-1, 2)]


def near_pairs(texts: Sequence[str]) -> np.ndarray:
    """int64 [m, 2]: places in ``texts`` of the pairs whose shingles have at least the Jaccard similarity ``SIMILAR``.

    Candidates come from MinHash (Broder 1997) in bands: a pair at the threshold is among them with probability 0.996,
    one at 0.8 with 0.99997. Every candidate is then compared exactly.
    """
    row, shingle = _shingles(texts)
    sizes = np.bincount(row, minlength=len(texts))
    long = np.flatnonzero(sizes >= SHORTEST)
    kept = sizes[row] >= SHORTEST
    sizes, row, shingle = sizes[long], np.searchsorted(long, row[kept]), shingle[kept]
    if len(long) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    kinds = int(shingle.max()) + 1
    starts = np.cumsum(sizes) - sizes
    pairs = _distinct(np.concatenate(list(_candidates(shingle, starts, kinds))))
    chosen = []
    for part in np.array_split(pairs, len(pairs) // 20_000 + 1):
        a, b = part // len(long), part % len(long)
        common = _common(row * kinds + shingle, kinds, starts, sizes, a, b)
        alike = common >= SIMILAR * (sizes[a] + sizes[b] - common)
        chosen.append(np.stack([long[a[alike]], long[b[alike]]], axis=1))
    return np.concatenate(chosen)


def _candidates(shingle: np.ndarray, starts: np.ndarray, kinds: int) -> Iterator[np.ndarray]:
    """For each band the pairs of texts that agree in it, as ``a * n + b`` with ``a < b``."""
    rng, n = np.random.default_rng(0), len(starts)
    for _ in range(BANDS):
        key = np.zeros(n, dtype=np.uint64)
        for _ in range(BAND):
            least = np.minimum.reduceat(rng.permutation(kinds).astype(np.int32)[shingle], starts)
            key = key * _STEP + least.astype(np.uint64)
        order = np.argsort(key, kind="stable")
        key, alive, step, left = key[order], np.arange(n), 0, CANDIDATES
        while len(alive) and left > 0:
            step += 1
            alive = alive[alive + step < n]
            alive = alive[key[alive] == key[alive + step]]
            left -= len(alive)
            yield order[alive] * n + order[alive + step]


def _shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Two int64 arrays, one entry for each distinct shingle of each text, sorted: the text, the shingle's number."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    row = np.repeat(np.arange(len(texts)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(points))  # characters up to the text's end
    hashed = np.zeros(max(0, len(points) - SHINGLE + 1), dtype=np.uint64)
    for offset in range(SHINGLE):
        hashed = hashed * _STEP + points[offset : offset + len(hashed)]
    inside = left[: len(hashed)] >= SHINGLE
    kinds, number = np.unique(hashed[inside], return_inverse=True)
    keys = _distinct(row[: len(hashed)][inside] * max(1, len(kinds)) + number)
    return keys // max(1, len(kinds)), keys % max(1, len(kinds))


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """``np.unique`` by sorting, which is several times faster here than by hashing."""
    numbers = np.sort(numbers)
    return numbers[np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)]]


def _common(
    keys: np.ndarray, kinds: int, starts: np.ndarray, sizes: np.ndarray, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """int64 [m]: how many shingles texts ``a`` and ``b`` share; ``keys``: sorted ``text * kinds + shingle``."""
    pair = np.repeat(np.arange(len(a)), sizes[a])
    step = np.arange(len(pair)) - np.repeat(np.cumsum(sizes[a]) - sizes[a], sizes[a])
    wanted = keys[starts[a][pair] + step] % kinds + b[pair] * kinds
    place = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    return np.bincount(pair[keys[place] == wanted], minlength=len(a))


def _components(n: int, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [n]: the lowest row that each row is linked to, over any number of links."""
    a, b = np.concatenate([np.zeros((0, 2), dtype=np.int64), *pairs]).T
    lowest = np.arange(n)
    while True:
        before = lowest.copy()
        least = np.minimum(lowest[a], lowest[b])
        np.minimum.at(lowest, a, least)
        np.minimum.at(lowest, b, least)
        np.minimum.at(lowest, before, lowest)  # what a root learns, all below it learn
        lowest = lowest[lowest]
        if np.array_equal(before, lowest):
            return lowest
