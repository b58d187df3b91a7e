"""The command ``jirgee``: finds the subcommand, calls it, turns errors into one line and an exit code.

0 done; 1 the input or the machine is at fault; 2 wrong usage; 130 interrupted. Results go to standard output or the
output file, everything else to standard error.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .bench import BENCH
from .bundle import Bundle
from .cli_explain import EXPLAIN
from .cli_score import SCORE
from .cli_serve import SERVE
from .cli_trust import CHECK, PULL, PUSH
from .command import Command, UsageError, device_arguments
from .errors import Interrupted, JirgeeError
from .labelled import read_labelled
from .machine import return_big_blocks
from .metrics import figures_table
from .providers import auto_note
from .scorer import Scorer
from .tune import TUNE

# --- eval --------------------------------------------------------------------------------------------------------


def _eval_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("file", type=Path, help="labelled rows (tsv, csv, jsonl)")
    parser.add_argument("--text-column", default="text", metavar="NAME")
    parser.add_argument("--label-column", default="label", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    device_arguments(parser)


def _eval(args: Namespace) -> int:
    from .metrics import evaluate

    bundle = Bundle.load(args.bundle)
    rows = read_labelled(args.file, args.text_column, args.label_column)
    gold = rows.indices(bundle.labels)
    with Scorer.load(bundle, args.device, args.threads) as scorer:
        figures = evaluate(scorer.score(rows.texts).probs, gold, bundle.labels)
    if args.json:
        print(json.dumps(figures, ensure_ascii=False))
        return 0
    print(figures_table(figures))
    return 0


# --- info -------------------------------------------------------------------------------------------------------


def _info_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _info(args: Namespace) -> int:
    bundle = Bundle.load(args.bundle)
    facts = {
        "bundle": str(bundle.path),
        "intact": True,
        "format version": bundle.version,
        "labels": list(bundle.labels),
        "recipe": bundle.recipe,
        "safe on": bundle.safe_on,
        "size (bytes)": bundle.size,
        "max tokens": bundle.max_tokens,
        "temperature": bundle.temperature,
        "n-gram weight": bundle.ngram_weight,
        "tolerance": bundle.tolerance,
        "cascade": f"the large model below {bundle.cascade['threshold']:.4f}" if bundle.cascade else "no",
        "provenance": dict(bundle.provenance),
        "files": {name: sha256 for name, (_, sha256) in bundle.files.items()},
    }
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            print(f"{name}:")
            for key, part in value.items():
                print(f"  {key}: {json.dumps(part, ensure_ascii=False) if isinstance(part, dict) else part}")
        else:
            print(f"{name}: {shown}")
    return 0


# --- the command -------------------------------------------------------------------------------------------------

COMMANDS = {
    "score": SCORE,
    "tune": TUNE,
    "eval": Command(
        "measure a bundle on labelled rows",
        _eval_arguments,
        _eval,
        epilog="example: jirgee eval bundle samples/dev.tsv",
    ),
    "explain": EXPLAIN,
    "bench": BENCH,
    "info": Command(
        "say what a bundle is and whether it is intact",
        _info_arguments,
        _info,
        epilog="example: jirgee info bundle",
    ),
    "check": CHECK,
    "serve": SERVE,
    "push": PUSH,
    "pull": PULL,
}


def find_commands() -> dict[str, Command]:
    """The runtime's commands and those of the installed stages (entry-point group ``jirgee.commands``)."""
    from importlib.metadata import entry_points  # costs scoring 40 ms, which asks for no stage

    stages = {entry.name: entry.load() for entry in entry_points(group="jirgee.commands")}
    return dict(sorted(stages.items(), reverse=True)) | COMMANDS


def build_parser(commands: dict[str, Command]) -> ArgumentParser:
    lines = ["commands:"]
    for name, command in commands.items():
        missing = f"   (not installed: {command.install_line()})" if command.missing() else ""
        lines.append(f"  {name:8} {command.help}{missing}")
    lines.append("\njirgee COMMAND --help tells more.")
    parser = ArgumentParser(
        "jirgee",
        usage="jirgee COMMAND ...",
        description="Train, export and run small text classifiers.",
        epilog="\n".join(lines),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jirgee {__version__}")
    parser.add_argument("command", choices=list(commands), metavar="COMMAND")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = COMMANDS if argv and argv[0] in COMMANDS else find_commands()
    if commands is COMMANDS:  # not for the stages: PyTorch frees and takes big blocks all the time
        return_big_blocks()
    if not argv or argv[0] not in commands:
        build_parser(commands).parse_args(argv)
    name, command = argv[0], commands[argv[0]]
    parser = ArgumentParser(
        f"jirgee {name}",
        description=command.help,
        epilog=command.epilog,
        formatter_class=RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    if isinstance(sys.stdout, io.TextIOWrapper):  # results are UTF-8, whatever the terminal's encoding
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    warnings.showwarning = lambda message, *rest: print(f"jirgee: warning: {message}", file=sys.stderr)
    try:
        if "-h" not in argv and "--help" not in argv:
            command.check(name)
        args = parser.parse_args(argv[1:])
        if commands is COMMANDS and getattr(args, "device", None) == "auto" and (note := auto_note()):
            print(f"jirgee: {note}", file=sys.stderr)
        code = command.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except UsageError as error:
        parser.error(str(error))
    except JirgeeError as error:
        print(f"jirgee: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"jirgee: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        words = ["jirgee", *argv, *([] if stop.flag in argv else [stop.flag])]
        print(f"\njirgee: interrupted; its state is in {stop.kept}. To go on: {shlex.join(words)}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(
            f"\njirgee: interrupted; no file was written. To start over: {shlex.join(['jirgee', *argv])}",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
