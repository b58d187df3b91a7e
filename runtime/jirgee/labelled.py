"""Labelled texts from files: what training, export and ``jirgee eval`` read. Strict: the first bad row is an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .rows import EXTENSIONS, Reject, Row, read_rows


@dataclass(frozen=True)
class Labelled:
    """``texts``, ``labels``: n strings each. ``where``: n places ``(path, line)``, for messages. ``groups``: n names of
    what a row belongs to (an author, a thread), "" for none; empty if no row has one.
    """

    texts: list[str]
    labels: list[str]
    where: list[tuple[Path, int]]
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: Labelled) -> Labelled:
        groups = []
        if self.groups or other.groups:
            groups = (self.groups or [""] * len(self)) + (other.groups or [""] * len(other))
        return Labelled(self.texts + other.texts, self.labels + other.labels, self.where + other.where, groups)

    def take(self, rows: Iterable[int]) -> Labelled:
        rows = list(rows)
        return Labelled(
            texts=[self.texts[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            where=[self.where[row] for row in rows],
            groups=[self.groups[row] for row in rows] if self.groups else [],
        )

    def indices(self, classes: Sequence[str]) -> np.ndarray:
        """int64 [n]: each label's place in ``classes``. Raises InputError, with file and line, for an unknown one."""
        index = {name: i for i, name in enumerate(classes)}
        for label, (path, line) in zip(self.labels, self.where, strict=True):
            if label not in index:
                raise InputError(
                    f"unknown label {label!r}; the model's are {', '.join(map(repr, classes))}", path, line
                )
        return np.array([index[label] for label in self.labels], dtype=np.int64)


def read_labelled(
    path: Path, text_column: str = "text", label_column: str = "label", group_column: str | None = None
) -> Labelled:
    """Read one file. Raises InputError, with file and line, for anything that is not a labelled text.

    A two-column TSV whose header names neither column is read by position, as mn-tweet-bert did: text, then label.
    """
    result, groups = Labelled([], [], []), []
    for item in read_rows(path):
        if isinstance(item, Reject):
            raise InputError(item.reason, path, item.line)
        record = item.record
        if len(record) == 2 and path.suffix == ".tsv" and not {text_column, label_column} & record.keys():
            record = dict(zip((text_column, label_column), record.values(), strict=True))
        text = checked_text(record, text_column, path, item.line)
        if label_column not in record:
            raise InputError(f'no "{label_column}" column; pass --label-column', path, item.line)
        label = record[label_column]
        if isinstance(label, bool) or not isinstance(label, (str, int)) or not str(label).strip():
            raise InputError(f"the label is {label!r}; it must be a name", path, item.line)
        result.texts.append(text)
        result.labels.append(str(label))
        result.where.append((path, item.line))
        if group_column is not None:
            groups.append(_checked_group(record.get(group_column), path, item.line))
    if any(groups):
        result.groups.extend(groups)
    if not result.texts:
        raise InputError("holds no labelled rows", path)
    return result


def _checked_group(group: object, path: Path, line: int) -> str:
    if group is None:
        return ""
    if isinstance(group, bool) or not isinstance(group, (str, int)):
        raise InputError(f"the group is {group!r:.40}; it must be a name or a whole number", path, line)
    return str(group).strip()


TEXT_COLUMNS = ("full_text", "tweet.full_text", "data.text")  # where Twitter's archive and API have theirs


def checked_text(record: dict[str, Any], column: str, path: object, line: int) -> str:
    """The text of a row. ``column`` may lead into nested objects by dots; ``text`` finds those of Twitter too.

    Raises InputError if the column is missing or is not a string.
    """
    text = _nested(record, column)
    if text is _MISSING and column == "text":
        text = next((found for name in TEXT_COLUMNS if (found := _nested(record, name)) is not _MISSING), text)
    if text is _MISSING:
        raise InputError(f'no "{column}" column (it has {", ".join(record)}); pass --text-column', path, line)
    if not isinstance(text, str):
        raise InputError(f"the text is {text!r:.40}, which is not a string", path, line)
    return text


_MISSING = object()


def _nested(record: dict[str, Any], column: str) -> Any:
    if column in record:
        return record[column]
    value: Any = record
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            return _MISSING
        value = value[name]
    return value


def find_split(directory: Path, name: str) -> Path | None:
    """``train.tsv``, ``dev.jsonl.gz`` and the like in ``directory``; None if there is no such file."""
    for extension in EXTENSIONS:
        for path in (directory / f"{name}{extension}", directory / f"{name}{extension}.gz"):
            if path.is_file():
                return path
    return None


__all__ = ["Labelled", "Row", "checked_text", "find_split", "read_labelled"]
