"""Labelled files -> a train and a dev set that fit each other."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jirgee.errors import InputError
from jirgee.labelled import Labelled, find_split, read_labelled

from .hygiene import Hygiene, separate
from .repeats import Groups, group_rows

GROUP_COLUMN = "group"  # rows of one author or thread, where the data names them: never on both sides


@dataclass(frozen=True)
class Dataset:
    """``classes``: the label names, sorted; logit order. ``dev``: rows that no weight is fitted on. ``dev_units``: int
    [n_dev], equal for dev rows that belong together; None if nobody looked.
    """

    train: Labelled
    dev: Labelled
    classes: list[str]
    hygiene: Hygiene = field(default_factory=Hygiene)
    dev_units: np.ndarray | None = None


def read_dataset(
    paths: Sequence[Path],
    dev_share: float,
    seed: int,
    text_column: str = "text",
    label_column: str = "label",
    keep_repeats: bool = False,
) -> Dataset:
    """A directory with ``train.*`` and perhaps ``dev.*``, or labelled files.

    Without a dev file a share of the rows is held out by label, rows that (nearly) repeat each other or share a group
    always on one side. With one, train rows that repeat a dev row are dropped, unless ``keep_repeats``.
    Raises InputError for unreadable files, a dev label that train has not, or fewer than two labels in train.
    """
    rows, dev = read_files(paths, text_column, label_column)
    classes = sorted(set(rows.labels))
    if len(classes) < 2:
        raise InputError(
            f"every row has the label {classes[0]!r}; training needs at least two labels", rows.where[0][0]
        )
    if dev is None:
        groups = group_rows(rows)
        in_dev = hold_out(rows, groups, dev_share, seed)
        order = np.concatenate([np.flatnonzero(~in_dev), np.flatnonzero(in_dev)])
        groups, dev = groups.take(order), rows.take(np.flatnonzero(in_dev).tolist())
        rows = rows.take(np.flatnonzero(~in_dev).tolist())
    else:
        dev.indices(classes)
        groups = group_rows(rows + dev)
    train, hygiene = separate(rows, dev, groups, keep_repeats)
    return Dataset(train, dev, classes, hygiene, groups.units[len(rows) :])


def read_files(paths: Sequence[Path], text_column: str, label_column: str) -> tuple[Labelled, Labelled | None]:
    """The rows of a directory's train file and dev file (None if it has none), or of all the files as one."""
    files, dev_file = list(paths), None
    if len(files) == 1 and files[0].is_dir():
        directory = files[0]
        train_file = find_split(directory, "train")
        if train_file is None:
            raise InputError("holds no train.tsv, train.csv or train.jsonl", directory)
        files, dev_file = [train_file], find_split(directory, "dev")
    rows = Labelled([], [], [])
    for path in files:
        rows += read_labelled(path, text_column, label_column, GROUP_COLUMN)
    dev = None if dev_file is None else read_labelled(dev_file, text_column, label_column, GROUP_COLUMN)
    return rows, dev


def hold_out(rows: Labelled, groups: Groups, share: float, seed: int) -> np.ndarray:
    """bool [n], True for dev: about ``share`` of each label's rows, whole units; each label keeps a unit in train.

    Raises InputError if some label's rows are all one unit, so that none could be held out.
    """
    members: dict[int, Counter[str]] = {}  # unit -> rows by label
    for unit, label in zip(groups.units.tolist(), rows.labels, strict=True):
        members.setdefault(unit, Counter())[label] += 1
    units_of = {label: [unit for unit, inside in members.items() if label in inside] for label in set(rows.labels)}
    left = Counter({label: len(units) for label, units in units_of.items()})  # units still in train
    wanted = {label: max(1, round(share * count)) for label, count in Counter(rows.labels).items()}
    held, rows_held = set(), Counter()
    rng = random.Random(seed)
    for label, units in sorted(units_of.items(), key=lambda item: (len(item[1]), item[0])):  # the rarest first
        if len(units) < 2:
            raise InputError(
                f"label {label!r} has one distinct text or group; at least two are needed to hold one out",
                rows.where[rows.labels.index(label)][0],
            )
        shuffled = rng.sample(sorted(units), len(units))
        smallest = sorted(
            shuffled, key=lambda unit: members[unit].total()
        )  # where none fits, the least that is too much
        for unit, needed in [*((unit, False) for unit in shuffled), *((unit, True) for unit in smallest)]:
            inside = members[unit]
            if rows_held[label] >= (1 if needed else wanted[label]):
                continue
            fits = needed or all(rows_held[other] + count <= wanted[other] for other, count in inside.items())
            if unit not in held and fits and all(left[other] > 1 for other in inside):
                held.add(unit)
                left.subtract(inside.keys())
                rows_held += inside
    return np.isin(groups.units, list(held))


def describe(data: Dataset) -> str:
    """One line a set: rows and rows by label."""
    lines = []
    for name, part in (("train", data.train), ("dev", data.dev)):
        counts = Counter(part.labels)
        lines.append(f"{name}: {len(part)} rows ({', '.join(f'{label} {counts[label]}' for label in data.classes)})")
    return "\n".join(lines)
