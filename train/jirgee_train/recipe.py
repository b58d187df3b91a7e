"""A training recipe: every choice of a run in one frozen dataclass, from a TOML file, flags, or both."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from jirgee.errors import InputError, optional_import

DEFAULT_BASE = "e5-small-mn"
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("fp32", "bf16", "fp16"),
    "class_weights": ("none", "balanced"),
}


@dataclass(frozen=True)
class Recipe:
    """``warmup``: share of the steps over which the learning rate rises. ``patience``: epochs without a better dev
    accuracy before training stops, 0 to run all. ``dev_share``: of the rows, held out when there is no dev file.
    ``ngrams``: log2 of the hash buckets of a hybrid's character n-grams, 0 for the encoder alone. ``precision`` and
    ``class_weights``: one of CHOICES. ``batch_size``: of each process, where there are several.
    """

    base: str = DEFAULT_BASE
    epochs: float = 5
    batch_size: int = 16
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    accumulate: int = 1
    max_tokens: int = 128
    patience: int = 2
    dev_share: float = 0.2
    ngrams: int = 0
    precision: str = "fp32"
    class_weights: str = "none"
    seed: int = 42

    def __post_init__(self):
        checks = {
            "epochs": 0 < self.epochs < math.inf,
            "batch_size": self.batch_size >= 1,
            "learning_rate": 0 < self.learning_rate < 1,
            "warmup": 0 <= self.warmup <= 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "accumulate": self.accumulate >= 1,
            "max_tokens": self.max_tokens >= 4,
            "patience": self.patience >= 0,
            "dev_share": 0 < self.dev_share < 1,
            "ngrams": self.ngrams == 0 or 8 <= self.ngrams <= 24,
            "seed": 0 <= self.seed < 2**32,
        }
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"recipe: {name} = {getattr(self, name)!r} is none of {', '.join(choices)}")
        if bad := [name for name, good in checks.items() if not good]:
            raise InputError(f"recipe: {bad[0]} = {getattr(self, bad[0])!r} is out of its range")

    def to_toml(self) -> str:
        """The recipe as a TOML file; a finite float or a string is the same in TOML and in JSON."""
        import json

        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in asdict(self).items())


TYPES: dict[str, type] = {
    field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Recipe)
}


def shipped() -> dict[str, Path]:
    """The recipes that come with jirgee, by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.toml"))}


def _file_of(recipe: Path) -> Path:
    if recipe.suffix or len(recipe.parts) > 1:
        return recipe
    names = shipped()
    if recipe.name not in names:
        raise InputError(f"no recipe {recipe.name!r}: give a TOML file or one of {', '.join(names)}")
    return names[recipe.name]


def read_recipe(path: Path | None, **flags: Any) -> Recipe:
    """The recipe of a TOML file, or of a name of ``shipped``, or the defaults, with ``flags`` that are not None put
    over it.

    Raises InputError for an unknown name or key, a wrong type, or a value out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        import sys

        path = _file_of(path)
        tomllib = optional_import("tomllib" if sys.version_info >= (3, 11) else "tomli", "jirgee[train]", "--recipe")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"cannot be read as a recipe ({error})", path) from None
    for name, value in values.items():
        if name not in TYPES:
            raise InputError(f"unknown key {name!r}; a recipe has {', '.join(TYPES)}", path)
        if isinstance(value, bool) or not isinstance(
            value, (TYPES[name], int) if TYPES[name] is float else TYPES[name]
        ):
            raise InputError(f"{name} = {value!r}: a {TYPES[name].__name__} is wanted", path)
    try:
        recipe = Recipe(**values)
    except InputError as error:
        raise InputError(error.reason, path) from None
    return replace(recipe, **{name: value for name, value in flags.items() if value is not None})
