"""``jirgee check``, ``push`` and ``pull``: parse, call, print."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from .bundle import Bundle, copy
from .command import Command, UsageError, share
from .errors import BundleError
from .hub import pull, push, repo_id
from .providers import DEVICES


def _check_arguments(parser: ArgumentParser) -> None:
    from .check import LIMIT

    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("auto", *DEVICES), default="cpu", help="where to score (default cpu)")
    parser.add_argument(
        "--limit",
        type=share,
        metavar="CHANGE",
        help=f"by how much a golden text's probability may differ (default {LIMIT:g}, or its tolerance if larger)",
    )


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


# --- push and pull -----------------------------------------------------------------------------------------------


def _push_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "target", help="a Hugging Face repository (OWNER/NAME or hf:OWNER/NAME), or a directory or NAME.jirgee to write"
    )
    parser.add_argument("--private", action="store_true", help="if the repository is not there yet, make it private")
    parser.add_argument("--overwrite", action="store_true", help="replace a directory or file that exists")


def _push(args: Namespace) -> int:
    bundle = Bundle.load(args.bundle)
    repo = repo_id(args.target)
    if args.private and not repo:
        raise UsageError("--private is for a repository")
    if repo:
        print(f"hf:{repo}: commit {push(bundle, repo, private=args.private)}, {bundle.size / 1e6:.1f} MB")
    else:
        print(f"{copy(bundle, args.target, overwrite=args.overwrite).path}: {bundle.size / 1e6:.1f} MB, verified")
    return 0


def _pull_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", help="a Hugging Face repository (OWNER/NAME or hf:OWNER/NAME), or a bundle's path")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="BUNDLE", help="directory, or NAME.jirgee")
    parser.add_argument("--revision", metavar="NAME", help="of the repository: a branch, a tag or a commit")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def _pull(args: Namespace) -> int:
    repo = repo_id(args.source)
    if args.revision and not repo:
        raise UsageError("--revision is for a repository")
    if repo:
        bundle, commit = pull(repo, args.output, revision=args.revision, overwrite=args.overwrite)
        origin = f"commit {commit} of hf:{repo}"
    else:
        bundle = copy(Bundle.load(args.source), args.output, overwrite=args.overwrite)
        origin = args.source
    print(f"{bundle.path}: {bundle.recipe}, {bundle.size / 1e6:.1f} MB, verified, from {origin}")
    return 0


PUSH = Command(
    "copy a bundle to a Hugging Face repository or a directory",
    _push_arguments,
    _push,
    epilog="example: jirgee push bundle OWNER/NAME",
)
PULL = Command(
    "fetch a bundle from a Hugging Face repository or a directory, and verify it",
    _pull_arguments,
    _pull,
    epilog="example: jirgee pull OWNER/NAME -o bundle",
)
