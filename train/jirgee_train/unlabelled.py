"""Unlabelled texts from files: what ``jirgee adapt`` and ``jirgee distill`` learn from. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from jirgee.errors import InputError
from jirgee.labelled import checked_text
from jirgee.rows import Reject, read_rows

from .repeats import normalise


def read_texts(
    paths: Sequence[Path], text_column: str = "text", without: Iterable[str] = ()
) -> tuple[list[str], dict[str, int]]:
    """The distinct texts of all files, in their order, and how many rows were left out and why.

    Left out: unreadable rows, texts without a letter or digit, repeats, and the texts of ``without`` (retweets of them
    too: see ``repeats.normalise``).
    Raises InputError if a file cannot be read, a table has no text column, or nothing is left.
    """
    left_out = {"unreadable": 0, "empty": 0, "repeated": 0, "held out": 0}
    held, seen, texts = {normalise(text) for text in without}, set(), []
    for path in paths:
        for item in read_rows(path):
            if isinstance(item, Reject):
                left_out["unreadable"] += 1
                continue
            text = checked_text(item.record, text_column, path, item.line)
            same = normalise(text)
            if not any(letter.isalnum() for letter in same):
                left_out["empty"] += 1
            elif same in held:
                left_out["held out"] += 1
            elif same in seen:
                left_out["repeated"] += 1
            else:
                seen.add(same)
                texts.append(text)
    if not texts:
        raise InputError("no texts to learn from are left; give files with a text a line", paths[0])
    return texts, left_out


def describe(texts: Sequence[str], left_out: dict[str, int]) -> str:
    """One line: how many texts, and what was left out."""
    gone = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    return f"texts: {len(texts)}" + (f" (left out: {gone})" if gone else "")
