"""SentencePiece's compiled normaliser, taken apart and put together again with lower-casing inside.

A bundle may lower-case its texts before SentencePiece sees them. Where only SentencePiece runs (an ONNX operator), its
normaliser must do that too: ``fold_lower`` returns the model with rules that say what lower-casing and the old rules
say one after the other. A rule sees no context, so the Greek final sigma is an ordinary one.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceTrainer
from sentencepiece import sentencepiece_model_pb2 as protobuf

Rules = dict[str, str]


def read_model(data: bytes) -> Any:
    """The ModelProto in the bytes of a ``.model`` file."""
    return protobuf.ModelProto.FromString(data)  # pyright: ignore[reportAttributeAccessIssue]


def rules_of(charsmap: bytes) -> Rules:
    """What each string becomes: walks the double-array trie (Darts; Aoe 1989) that the charsmap begins with."""
    if not charsmap:
        return {}
    size = int.from_bytes(charsmap[:4], "little")
    units = np.frombuffer(charsmap[4 : 4 + size], "<u4").tolist()
    replacements = charsmap[4 + size :]

    def offset(unit: int) -> int:
        return (unit >> 10) << ((unit & 0x200) >> 6)

    children: dict[int, list[tuple[int, int]]] = {}
    for place, unit in enumerate(units):
        if 0 < (label := unit & 0x800000FF) < 256:
            children.setdefault(place ^ label, []).append((label, place))
    rules: Rules = {}
    stack = [(offset(units[0]), b"")]
    while stack:
        base, key = stack.pop()
        for label, place in children.get(base, ()):
            unit, longer = units[place], key + bytes([label])
            node = place ^ offset(unit)
            if unit >> 8 & 1:
                start = units[node] & 0x7FFFFFFF
                rules[longer.decode()] = replacements[start : replacements.index(b"\0", start)].decode()
            stack.append((node, longer))
    return rules


def with_lower(rules: Rules) -> Rules:
    """Rules that say of a text what ``rules`` say of ``text.lower()``."""
    changed = {char: low for char in map(chr, range(sys.maxunicode + 1)) if (low := char.lower()) != char}
    above: dict[str, list[str]] = {}
    for char, low in changed.items():
        above.setdefault(low, []).append(char)
    normalise = _apply(rules)
    result = {char: normalise(low) for char, low in changed.items()}
    for key, value in rules.items():
        if any(char in changed for char in key):
            continue  # lower-casing never leaves such a text
        for variant in itertools.product(*([char, *above.get(char, [])] for char in key)):
            result["".join(variant)] = value
    return result


def _apply(rules: Rules) -> Any:
    """A function that replaces the longest match at every place."""
    longest = max(map(len, rules), default=0)

    def normalise(text: str) -> str:
        out, place = [], 0
        while place < len(text):
            for end in range(min(len(text), place + longest), place, -1):
                if text[place:end] in rules:
                    out.append(rules[text[place:end]])
                    place = end
                    break
            else:
                out.append(text[place])
                place += 1
        return "".join(out)

    return normalise


def compiled(rules: Rules) -> bytes:
    """Rules -> charsmap, by SentencePiece's own compiler, which a trainer runs before it trains."""

    def hexes(text: str) -> str:
        return " ".join(f"{ord(char):X}" for char in text)

    with tempfile.TemporaryDirectory(prefix="jirgee-rules-") as work:
        table = Path(work) / "rules.tsv"
        table.write_text("".join(f"{hexes(key)}\t{hexes(value)}\n" for key, value in rules.items()), encoding="ascii")
        SentencePieceTrainer.train(
            sentence_iterator=iter(["a b"]),
            model_prefix=str(Path(work) / "rules"),
            normalization_rule_tsv=str(table),
            model_type="char",
            vocab_size=5,
            hard_vocab_limit=False,
            minloglevel=3,
        )
        return read_model((Path(work) / "rules.model").read_bytes()).normalizer_spec.precompiled_charsmap


def fold_lower(model: Any, normalise: Iterable[str]) -> Any:
    """The ModelProto with ``lower`` in its own normaliser, if ``normalise`` asks for it."""
    folded = type(model)()
    folded.CopyFrom(model)
    if "lower" in normalise:
        rules = with_lower(rules_of(model.normalizer_spec.precompiled_charsmap))
        folded.normalizer_spec.precompiled_charsmap = compiled(rules)
        for piece in folded.pieces:
            if piece.type == piece.USER_DEFINED and piece.piece != piece.piece.lower():
                piece.type = piece.CONTROL  # "[MASK]" is looked for before lower-casing; afterwards it is never there
    return folded
