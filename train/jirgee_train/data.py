"""Labelled files -> a train and a dev set that fit each other."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jirgee.errors import InputError
from jirgee.labelled import Labelled, find_split, read_labelled


@dataclass(frozen=True)
class Dataset:
    """``classes``: the label names, sorted; logit order. ``dev``: rows that no weight is fitted on."""

    train: Labelled
    dev: Labelled
    classes: list[str]


def read_dataset(
    paths: Sequence[Path], dev_share: float, seed: int, text_column: str = "text", label_column: str = "label"
) -> Dataset:
    """A directory with ``train.*`` and perhaps ``dev.*``, or labelled files.

    Without a dev file a share of the rows is held out by label, identical texts always on one side.
    Raises InputError for unreadable files, a dev label that train has not, or fewer than two labels in train.
    """
    files, dev_file = list(paths), None
    if len(files) == 1 and files[0].is_dir():
        directory = files[0]
        train_file = find_split(directory, "train")
        if train_file is None:
            raise InputError("holds no train.tsv, train.csv or train.jsonl", directory)
        files, dev_file = [train_file], find_split(directory, "dev")
    rows = Labelled([], [], [])
    for path in files:
        rows += read_labelled(path, text_column, label_column)
    classes = sorted(set(rows.labels))
    if len(classes) < 2:
        raise InputError(f"every row has the label {classes[0]!r}; training needs at least two labels", files[0])
    if dev_file is not None:
        dev = read_labelled(dev_file, text_column, label_column)
        dev.indices(classes)
        return Dataset(rows, dev, classes)
    train, dev = hold_out(rows, dev_share, seed)
    return Dataset(train, dev, classes)


def hold_out(rows: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split by label; rows with the same text stay together, whatever their labels. Each label keeps a row in train.

    Raises InputError if some label has fewer than two distinct texts, so that none could be held out.
    """
    texts_of: dict[str, set[str]] = {}
    labels_of: dict[str, set[str]] = {}
    for text, label in zip(rows.texts, rows.labels, strict=True):
        texts_of.setdefault(label, set()).add(text)
        labels_of.setdefault(text, set()).add(label)
    rng = random.Random(seed)
    held: set[str] = set()
    left = Counter({label: len(texts) for label, texts in texts_of.items()})  # distinct texts still in train
    for label, texts in sorted(texts_of.items(), key=lambda item: (len(item[1]), item[0])):  # the rarest first
        if len(texts) < 2:
            raise InputError(
                f"label {label!r} has one distinct text; at least two are needed to hold one out",
                rows.where[0][0],
            )
        wanted = max(1, min(len(texts) - 1, round(share * len(texts))))
        for text in rng.sample(sorted(texts), len(texts)):
            if left[label] <= len(texts) - wanted:
                break
            if text not in held and all(left[other] > 1 for other in labels_of[text]):
                held.add(text)
                left.subtract(labels_of[text])
    in_dev = [text in held for text in rows.texts]
    return rows.take(i for i, dev in enumerate(in_dev) if not dev), rows.take(i for i, dev in enumerate(in_dev) if dev)


def describe(data: Dataset) -> str:
    """One line a set: rows and rows by label."""
    lines = []
    for name, part in (("train", data.train), ("dev", data.dev)):
        counts = Counter(part.labels)
        lines.append(f"{name}: {len(part)} rows ({', '.join(f'{label} {counts[label]}' for label in data.classes)})")
    return "\n".join(lines)
