"""Other forms of a finished bundle, for places without Python: one row of ``FORMS`` each.

Every form is made from a bundle, so that all of them say the same as it does; a checkpoint is exported first.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jirgee.bundle import PACKED_SUFFIX, Bundle, check_free
from jirgee.command import UsageError
from jirgee.errors import BundleError
from jirgee.manifest import MANIFEST


@dataclass(frozen=True)
class Form:
    """``write(bundle, out, args)`` writes the form to the path ``out`` and returns a line about it."""

    metavar: str
    help: str
    write: Callable[[Bundle, Path, Namespace], str]


def _web(bundle: Bundle, out: Path, args: Namespace) -> str:
    from .web import write_web

    return write_web(bundle, out, args.overwrite, args.onnxruntime_web)


def _string_input(bundle: Bundle, out: Path, args: Namespace) -> str:
    from .string_input import write_string_input

    return write_string_input(bundle, out, args.overwrite)


def _ort(bundle: Bundle, out: Path, args: Namespace) -> str:
    from .ort_format import write_ort

    return write_ort(bundle, out, args.overwrite)


# name of the option without its dashes -> form
FORMS = {
    "web": Form("DIR", "also a folder that scores in a browser, and in Node.js, on its own", _web),
    "string-input": Form("FILE.onnx", "also one graph from strings to probabilities, tokenizer inside", _string_input),
    "ort": Form("FILE.ort", "also the graph in ORT format, and the operators that it needs, for a minimal build", _ort),
}


def add_arguments(parser: ArgumentParser) -> None:
    forms = parser.add_argument_group("other forms", "of a new bundle, or of one that exists: export BUNDLE --web DIR")
    for name, form in FORMS.items():
        forms.add_argument(f"--{name}", type=Path, metavar=form.metavar, help=form.help)
    forms.add_argument(
        "--onnxruntime-web",
        type=Path,
        metavar="PATH",
        help="for --web: this unpacked npm package, instead of asking npm for it",
    )


def wanted(args: Namespace) -> dict[str, Path]:
    """Name of a form -> where to write it."""
    return {name: path for name in FORMS if (path := getattr(args, name.replace("-", "_")))}


def is_bundle(path: Path) -> bool:
    return path.suffix == PACKED_SUFFIX or (path / MANIFEST).is_file()


def check(args: Namespace) -> None:
    """Raise UsageError if the options do not go together, InputError if an output is in the way."""
    if args.onnxruntime_web and not args.web:
        raise UsageError("--onnxruntime-web goes with --web DIR")
    if is_bundle(args.checkpoint):
        if args.output or args.data or args.recipe != "auto":
            raise UsageError(f"{args.checkpoint} is a bundle: -o, --data and --recipe are for checkpoints")
        if not wanted(args):
            raise UsageError(f"{args.checkpoint} is a bundle: say which form you want of it (--{', --'.join(FORMS)})")
    elif not args.output and not wanted(args):
        raise UsageError("the following arguments are required: -o/--output")
    for path in wanted(args).values():
        check_free(path, args.overwrite)


def write_forms(bundle: Bundle, args: Namespace) -> None:
    """Write every wanted form and say so on standard output. Raises BundleError for a cascade, which has none."""
    if bundle.cascade and wanted(args):
        raise BundleError(f"{bundle.path}: a cascade has no other forms; export its small model alone")
    for name, path in wanted(args).items():
        print(FORMS[name].write(bundle, path, args))
