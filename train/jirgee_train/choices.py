"""Choices of ``jirgee adapt`` and ``jirgee distill`` as flags: what both have is explained and checked here, once."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jirgee.errors import InputError

Choices = TypeVar("Choices")


@dataclass(frozen=True)
class Choice:
    """``help``: of its flag. ``good``: whether a value is in its range."""

    help: str
    good: Callable[[Any], bool] = lambda value: True


def from_zero(value: float) -> bool:
    return 0 <= value < float("inf")


COMMON: dict[str, Choice] = {
    "epochs": Choice("passes over the texts, if the time allows", lambda value: value >= 1),
    "minutes": Choice(
        "stop after so long, the learning rate having fallen to zero; 0: after --epochs",
        from_zero,
    ),
    "batch_size": Choice("texts in one batch", lambda value: value >= 1),
    "learning_rate": Choice("peak learning rate of AdamW", lambda value: 0 < value < 1),
    "warmup": Choice("share of the run over which the learning rate rises", lambda value: 0 <= value < 1),
    "weight_decay": Choice("AdamW weight decay", from_zero),
    "precision": Choice(
        "auto, fp32 or bf16; auto is bf16 on CUDA, and bf16 doubles the speed of processors that have it",
        lambda value: value in ("auto", "fp32", "bf16"),
    ),
    "seed": Choice("of the order of texts", lambda value: 0 <= value < 2**32),
}


def check(choices: object, table: Mapping[str, Choice]) -> None:
    """Raise InputError for the first field of a dataclass that is out of its range."""
    for name, value in vars(choices).items():
        if not table[name].good(value):
            raise InputError(f"--{name.replace('_', '-')} {value!r} is out of its range")


def add_flags(parser: ArgumentParser, defaults: object, table: Mapping[str, Choice]) -> None:
    """A flag for each field of a dataclass."""
    for name, default in vars(defaults).items():
        kind = type(default)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=default,
            metavar=kind.__name__.upper(),
            help=f"{table[name].help} (default {default})",
        )


def chosen(defaults: Choices, args: Namespace) -> Choices:
    """The dataclass of ``defaults`` with the values of the command line."""
    return type(defaults)(**{name: getattr(args, name) for name in vars(defaults)})
