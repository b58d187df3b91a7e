"""``jirgee export``: parses, calls, prints. Imports PyTorch and onnx only when it runs."""

from __future__ import annotations

import logging
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from itertools import islice
from pathlib import Path

from jirgee.bundle import Bundle, check_free
from jirgee.command import Command, UsageError, positive
from jirgee.errors import InputError
from jirgee.labelled import checked_text
from jirgee.rows import Row, read_rows

from . import forms

MOST_TEXTS = 2000

# auto and the rows of quantise.RECIPES (a test holds them equal): what imports nothing heavy cannot look
RECIPE_NAMES = (
    "auto",
    "int8-static",
    "int8-static-full",
    "int8",
    "int8-full",
    "int8-batch",
    "int8-u8",
    "int8-block",
    "int8-mixed",
    "int4",
    "fp16",
    "fp32",
)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, help="a fine-tuned directory, a hub id, or a bundle for another form of it"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="BUNDLE", help="directory, or NAME.jirgee")
    parser.add_argument(
        "--recipe",
        choices=RECIPE_NAMES,
        default="auto",
        metavar="NAME",
        help=f"how weights are stored: {', '.join(RECIPE_NAMES)}; auto measures all that are safe on this machine and "
        "takes the fastest that passes the gate (default)",
    )
    parser.add_argument("--portable", action="store_true", help="auto: only recipes that are safe on every CPU")
    parser.add_argument(
        "--labels",
        default="",
        metavar="A,B",
        help="class names in logit order, instead of the checkpoint's",
    )
    parser.add_argument("--data", type=Path, metavar="DEV_FILE", help="labelled held-out rows for the gate")
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="held-out texts on which batch-mates are tried and a cascade is chosen (default: those of --data)",
    )
    parser.add_argument(
        "--max-drop", type=float, default=0.5, metavar="POINTS", help="accuracy it may lose (default 0.5)"
    )
    parser.add_argument(
        "--max-flips", type=float, default=1.0, metavar="PERCENT", help="labels it may change (default 1)"
    )
    parser.add_argument(
        "--max-batch-effect",
        type=float,
        default=0.02,
        metavar="CHANGE",
        help="of a probability, by what a text is scored with (default 0.02)",
    )
    parser.add_argument(
        "--golden-from-data",
        action="store_true",
        help="put 32 texts of --data into the bundle, for jirgee check to score again; without it these are strings of "
        "random pieces, because texts may be private",
    )
    parser.add_argument(
        "--trim-to",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="cut the vocabulary to the pieces that these texts use, and prove that nothing else changes",
    )
    parser.add_argument(
        "--trim-count",
        type=positive,
        default=1,
        metavar="N",
        help="--trim-to: only pieces that are there N times (default 1)",
    )
    parser.add_argument("--with-attention", action="store_true", help="add what jirgee explain shows the heads by")
    parser.add_argument(
        "--cascade", type=Path, metavar="LARGE", help="checkpoint or bundle that answers where this one is not sure"
    )
    parser.add_argument(
        "--agreement", type=share, default=0.995, metavar="SHARE", help="labels that stay LARGE's (default 0.995)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    forms.add_arguments(parser)


def _run(args: Namespace) -> int:
    if args.golden_from_data and not args.data:
        raise UsageError("--golden-from-data needs --data")
    if not args.cascade:
        forms.check(args)
    elif not (args.output and (args.texts or args.data)):
        raise UsageError("--cascade needs -o and --texts (or --data)")
    elif forms.wanted(args):
        raise UsageError("a cascade has no other forms")
    for path in filter(None, (args.checkpoint, args.data, args.cascade, args.texts, *args.trim_to)):
        if not path.exists() and (path is not args.checkpoint or not _may_be_hub_id(path)):
            raise InputError("no such file or directory", path)
    if args.cascade:
        return _cascade(args)
    if forms.is_bundle(args.checkpoint):
        forms.write_forms(Bundle.load(args.checkpoint), args)
        return 0
    if args.output:
        check_free(args.output, args.overwrite)
        return _export(args, args.output)
    with tempfile.TemporaryDirectory(prefix="jirgee-export-") as work:
        return _export(args, Path(work) / "bundle")


def _cascade(args: Namespace) -> int:
    """Two checkpoints or bundles -> one bundle that holds both."""
    check_free(args.output, args.overwrite)
    from .cascade import combine

    texts = _texts(args.texts or args.data, None)
    alone = dict.fromkeys(("cascade", *forms.FORMS))  # the parts are not wanted for themselves
    with tempfile.TemporaryDirectory(prefix="jirgee-export-") as work:
        bundles = []
        for name, source in (("small", args.checkpoint), ("large", args.cascade)):
            if not forms.is_bundle(source):
                part = Namespace(**{**vars(args), **alone, "checkpoint": source, "output": Path(work) / name})
                _export(part, part.output)
                source = part.output
            bundles.append(Bundle.load(source))
        bundle, report = combine(bundles[0], bundles[1], texts, args.agreement, args.output, args.overwrite)
    print(
        f"{args.output}: the small model answers {1 - report['deferred']:.1%} of {report['texts']} texts; labels are "
        f"the large one's on {report['agreement_measured']:.4f} (95 % confidence: {report['at_least']:.4f} or more); "
        f"{report['times_as_fast']:.1f} times as fast, {bundle.size / 1e6:.1f} MB"
    )
    return 0


def share(text: str) -> float:
    """A type of argparse: a number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return number


def _export(args: Namespace, output: Path) -> int:
    """Checkpoint -> bundle ``output``, and the forms of it that are wanted."""

    def say(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr)

    logging.disable(logging.WARNING)  # exporters warn of what verify.py measures
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    from .build import build
    from .report import table
    from .verify import Limits

    if not args.data:
        say("no --data: labels cannot be checked on real texts, only on strings of random pieces")
    built = build(
        args.checkpoint,
        output,
        args.recipe,
        args.data,
        Limits(args.max_drop, args.max_flips, args.max_batch_effect),
        args.overwrite,
        say,
        args.golden_from_data,
        args.with_attention,
        _texts(args.texts) if args.texts else (),
        [name.strip() for name in args.labels.split(",") if name.strip()],
        args.portable,
        trim_to=[text for path in args.trim_to for text in _texts(path, None)],
        trim_count=args.trim_count,
    )
    print(table(built.tried, built.bundle.recipe))
    if args.output:
        print(f"{output}: {built.bundle.recipe}, {built.bundle.size / 1e6:.1f} MB")
    forms.write_forms(built.bundle, args)
    return 0


def _may_be_hub_id(path: Path) -> bool:
    return not path.is_absolute() and len(path.parts) == 2 and path.parts[0] not in (".", "..", "~")


def _texts(path: Path, most: int | None = MOST_TEXTS) -> list[str]:
    """The first texts of a file. Raises InputError."""
    found = []
    for item in islice(read_rows(path), most):
        if not isinstance(item, Row):
            raise InputError(item.reason, path, item.line)
        found.append(checked_text(item.record, "text", path, item.line))
    if not found:
        raise InputError("holds no texts", path)
    return found


EXPORT = Command(
    help="turn a checkpoint into a verified, quantised bundle",
    add_arguments=_add_arguments,
    run=_run,
    extra="export",
    needs=("torch", "transformers", "optimum.exporters.onnx", "onnx", "onnxruntime"),
    epilog="example: jirgee export checkpoint -o bundle --data samples/dev.tsv",
)
