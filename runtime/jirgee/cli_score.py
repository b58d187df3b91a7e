"""``jirgee score``: files to a file, or a stream to a stream."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from .columns import Extras
from .command import Command, UsageError, device_arguments
from .errors import InputError
from .formats import FORMATS
from .scorer import Scorer


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ArgumentTypeError(f"must be at least 0, not {number}")
    return number


def _score_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "input",
        nargs="+",
        help="files, directories or globs; or - for rows on standard input, by default one text a line",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file to write; its name tells the format (csv, tsv, jsonl, parquet; .gz .xz .zst)",
    )
    parser.add_argument(
        "--text-column",
        default="text",
        metavar="NAME",
        help="column of the texts; dots lead into JSON objects (data.text)",
    )
    parser.add_argument("--format", choices=list(FORMATS), help="of the input, where its name does not tell")
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="set bad rows aside there (JSON lines) and go on")
    parser.add_argument("--max-rejects", type=_count, metavar="N", help="stop at more than N of them")
    parser.add_argument("--flags", action="store_true", help="add the columns truncated, unknown_share and note")
    parser.add_argument(
        "--abstain-below", type=_share, default=0.0, metavar="P", help="no label where its probability is below P"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--log-json", action="store_true", help="one JSON line a minute and at the end, not a bar")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    device_arguments(parser)


def _score(args: Namespace) -> int:
    if args.max_rejects is not None and not args.rejects:
        raise UsageError("--max-rejects needs --rejects FILE")
    if "-" in args.input:
        if len(args.input) > 1:
            raise UsageError("- stands alone; files go in a run of their own")
        if args.output:
            raise UsageError("with - the results go to standard output; leave -o out, or write > FILE")
        if args.rejects or args.resume:
            raise UsageError("--rejects and --resume are for files; a stream cannot be read again")
        return _score_stdin(args)
    if not args.output:
        raise UsageError("no output file; pass -o FILE")
    from .inputs import expand
    from .progress import Progress
    from .run import Task, check_task, finished_before, run

    outputs = [path for path in (args.output, args.rejects) if path]
    inputs = expand(args.input, args.format, without=outputs)
    for path in inputs:
        if args.output.resolve() == path.resolve():
            raise InputError("is input and output at once; write to another file", path)
    if args.rejects and args.rejects.resolve() in {path.resolve() for path in (args.output, *inputs)}:
        raise InputError("is input or output too; write the rejects to another file", args.rejects)
    task = Task(
        inputs,
        args.output,
        args.text_column,
        args.format,
        args.rejects,
        args.max_rejects,
        Extras(args.flags, args.abstain_below),
        args.resume,
        args.overwrite,
    )
    if finished_before(task):
        if not args.quiet:
            print(f"{args.output}: finished already, nothing to resume; --overwrite scores it again", file=sys.stderr)
        return 0
    check_task(task)
    style = "quiet" if args.quiet else "log" if args.log_json else "bar" if sys.stderr.isatty() else "none"
    with Scorer.load(args.bundle, args.device, args.threads) as scorer:
        progress = Progress(style, inputs)
        try:
            summary = run(task, scorer, progress.scored, progress.consumed)
        finally:
            progress.close()
    progress.end(args.output, summary)
    return 0


def _score_stdin(args: Namespace) -> int:
    from .stream import score_stream

    if sys.stdin is None:
        raise InputError("standard input is closed; send the texts there, one a line")
    extras = Extras(args.flags, args.abstain_below)
    with Scorer.load(args.bundle, args.device, args.threads) as scorer:
        source = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        score_stream(scorer, source, sys.stdout, args.format or "text", args.text_column, extras)
    return 0


SCORE = Command(
    "score files or a stream of texts",
    _score_arguments,
    _score,
    epilog="""examples:
  jirgee score bundle tweets.csv -o scored.csv
  jirgee score bundle tweets/ -o scored.parquet --rejects bad.jsonl
  cat texts.txt | jirgee score bundle - > scores.jsonl""",
)
