"""``jirgee check``: parses, calls, prints."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from .command import Command
from .errors import BundleError


def _check_arguments(parser: ArgumentParser) -> None:
    from .check import LIMIT

    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="where to score (default cpu)")
    parser.add_argument(
        "--limit",
        type=_share,
        default=LIMIT,
        metavar="CHANGE",
        help=f"by how much a golden text's probability may differ (default {LIMIT:g})",
    )


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return number


def _check(args: Namespace) -> int:
    from .check import check, table

    found = check(args.bundle, args.device, args.limit)
    print(json.dumps(found, ensure_ascii=False) if args.json else table(found), flush=True)
    if not found["passed"]:
        raise BundleError(f"{args.bundle}: {'; '.join(found['problems'])}")
    return 0


CHECK = Command(
    "say whether a bundle scores here as it did at export",
    _check_arguments,
    _check,
    epilog="example: jirgee check bundle",
)
