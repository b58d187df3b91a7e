"""Labelled files -> K splits for cross-validation: stratified by label, repeats and groups always on one side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jirgee.errors import InputError
from jirgee.labelled import Labelled

from .data import Dataset, read_files
from .hygiene import separate
from .repeats import group_rows


def read_folds(
    paths: Sequence[Path], k: int, seed: int, text_column: str = "text", label_column: str = "label"
) -> list[Dataset]:
    """All rows of the files, those of a dev file too, cut ``k`` ways.

    Raises InputError for unreadable files, fewer than two labels, or a label with fewer than ``k`` distinct texts.
    """
    rows, dev = read_files(paths, text_column, label_column)
    return split(rows if dev is None else rows + dev, k, seed)


def split(rows: Labelled, k: int, seed: int) -> list[Dataset]:
    """``k`` datasets; every row is in the dev set of one. scikit-learn's ``StratifiedGroupKFold``."""
    from sklearn.model_selection import StratifiedGroupKFold

    if k < 2:
        raise InputError(f"--folds {k}: at least 2 are needed")
    classes, place = sorted(set(rows.labels)), rows.where[0][0]
    if len(classes) < 2:
        raise InputError(f"every row has the label {classes[0]!r}; training needs at least two labels", place)
    groups, gold = group_rows(rows), rows.indices(classes)
    for label, name in enumerate(classes):
        if (found := len(np.unique(groups.units[gold == label]))) < k:
            raise InputError(
                f"label {name!r} has {found} distinct texts or groups; pass --folds {max(2, found)}", place
            )
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(gold, gold, groups.units)
        for inside, outside in parts:
            order = np.concatenate([inside, outside])
            train, dev = rows.take(inside.tolist()), rows.take(outside.tolist())
            if len(set(train.labels)) < len(classes) or not len(dev):
                raise InputError(f"{k} folds leave a label without train rows; pass fewer --folds", place)
            _, hygiene = separate(train, dev, groups.take(order), keep=True)
            assert hygiene.leaked == 0
            found.append(Dataset(train, dev, classes, hygiene, groups.units[outside]))
    return found
