"""What a subcommand is. The runtime's own are in ``cli.py``; the stages add theirs by the entry-point group
``jirgee.commands``, whose entries are ``Command`` objects in modules that import nothing heavy."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeVar

from .errors import MissingPackage
from .providers import DEVICES


class UsageError(Exception):
    """Arguments that do not go together; exit code 2, as for those that argparse refuses."""


@dataclass(frozen=True)
class Command:
    """``add_arguments`` fills the parser; ``run`` does the work and returns the exit code.

    ``extra``: the extra of the distribution that installs what ``run`` needs, and ``needs``: the modules whose absence
    means that it is not installed.
    """

    help: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    extra: str = ""
    needs: tuple[str, ...] = ()
    epilog: str = ""

    def missing(self) -> str | None:
        """The first needed module that is not installed."""
        for module in self.needs:
            try:
                if find_spec(module) is None:
                    return module
            except ModuleNotFoundError:  # a parent package is absent
                return module
        return None

    def check(self, name: str) -> None:
        """Raise MissingPackage, with the command that mends it, unless everything needed is installed."""
        if module := self.missing():
            raise MissingPackage(f"jirgee {name} needs {module}, which is not installed; run: {self.install_line()}")

    def install_line(self) -> str:
        return f"pip install 'jirgee[{self.extra}]'"


def device_arguments(parser: ArgumentParser) -> None:
    """``--device`` and ``--threads``, for every command that runs a bundle."""
    parser.add_argument(
        "--device",
        choices=("auto", *DEVICES),
        default="auto",
        help="where the model runs (default auto: cuda where it works, else cpu)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="worker threads (default: the processors this process may use)",
    )


def positive(text: str) -> int:
    """A type of argparse: a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"must be at least 1, not {number}")
    return number


Number = TypeVar("Number", int, float)


def within(kind: Callable[[str], Number], low: Number, high: Number, name: str) -> Callable[[str], Number]:
    """A type of argparse: a number of ``kind`` from ``low`` to ``high``. ``name``: what argparse calls it."""

    def parse(text: str) -> Number:
        number = kind(text)
        if not low <= number <= high:
            raise ArgumentTypeError(f"must be from {low} to {high}, not {text}")
        return number

    parse.__name__ = name
    return parse


share = within(float, 0, 1, "share")
