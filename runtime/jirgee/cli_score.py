"""``jirgee score``: files to a file, or a stream to a stream."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from .bundle import Bundle, check_free
from .columns import Extras
from .command import Command, UsageError, device_arguments, positive, share
from .errors import InputError
from .formats import FORMATS
from .layout import LOW_MEMORY, Layout
from .machine import share_one_heap
from .scorer import Scorer
from .sinks import beside, publish

if TYPE_CHECKING:
    from .run import Task


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
        "--abstain-below", type=share, default=0.0, metavar="P", help="no label where its probability is below P"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="afterwards, plot the scores there (one HTML page)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--log-json", action="store_true", help="one JSON line a minute and at the end, not a bar")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: many processes or machines")
    parser.add_argument("--workers", type=positive, metavar="N", help="of Ray (default: the processors there are)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="of a Ray cluster (default: this machine alone)")
    parser.add_argument(
        "--low-memory", action="store_true", help="one thread, small batches, no memory kept between them"
    )
    device_arguments(parser)


def _score(args: Namespace) -> int:
    if args.max_rejects is not None and not args.rejects:
        raise UsageError("--max-rejects needs --rejects FILE")
    if args.engine == "local" and (args.workers or args.ray_address):
        raise UsageError("--workers and --ray-address need --engine ray")
    if args.engine == "ray" and args.resume:
        raise UsageError(
            "--resume needs --engine local: Ray makes up for lost workers, but a run that ends starts over"
        )
    if args.engine == "ray" and args.threads:
        raise UsageError(
            "--threads needs --engine local; on Ray every worker has one thread, and --workers says how many"
        )
    if args.low_memory and args.threads:
        raise UsageError("--low-memory means one thread; leave --threads out")
    if args.engine == "ray" and args.low_memory:
        raise UsageError("--low-memory needs --engine local")
    if args.low_memory:
        share_one_heap()
    if "-" in args.input:
        if len(args.input) > 1:
            raise UsageError("- stands alone; files go in a run of their own")
        if args.output:
            raise UsageError("with - the results go to standard output; leave -o out, or write > FILE")
        if args.engine == "ray":
            raise UsageError("--engine ray is for files; leave it out with -")
        if args.rejects or args.resume or args.report:
            raise UsageError("--rejects, --resume and --report are for files; a stream cannot be read again")
        return _score_stdin(args)
    if not args.output:
        raise UsageError("no output file; pass -o FILE")
    from .inputs import expand
    from .progress import Progress
    from .run import Task, check_task, finished_before, run

    outputs = [path for path in (args.output, args.rejects, args.report) if path]
    inputs = expand(args.input, args.format, without=outputs)
    for path in inputs:
        if args.output.resolve() == path.resolve():
            raise InputError("is input and output at once; write to another file", path)
    if args.rejects and args.rejects.resolve() in {path.resolve() for path in (args.output, *inputs)}:
        raise InputError("is input or output too; write the rejects to another file", args.rejects)
    if args.report:
        if args.report.resolve() in {path.resolve() for path in (*inputs, *outputs[:-1])}:
            raise InputError("is input or output too; write the report to another file", args.report)
        check_free(args.report, args.overwrite or args.resume)
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
        return _report(args, task)
    check_task(task)
    style = "quiet" if args.quiet else "log" if args.log_json else "bar" if sys.stderr.isatty() else "none"
    with ExitStack() as stack:
        if args.engine == "ray":
            from . import engine_ray

            progress = stack.enter_context(closing(Progress(style, inputs)))
            engine = args.device, args.workers, args.ray_address
            summary = engine_ray.run(task, Bundle.load(args.bundle), *engine, progress.scored, progress.consumed)
        else:
            scorer = stack.enter_context(Scorer.load(args.bundle, args.device, args.threads, layout=_layout(args)))
            progress = stack.enter_context(closing(Progress(style, inputs)))
            summary = run(task, scorer, progress.scored, progress.consumed)
    progress.end(args.output, summary)
    return _report(args, task)


def _layout(args: Namespace) -> Layout | None:
    return LOW_MEMORY if args.low_memory else None


def _report(args: Namespace, task: Task) -> int:
    if not args.report:
        return 0
    from .report_page import render
    from .scored import collect

    bundle = Bundle.load(args.bundle)
    page = render(collect(task.output, bundle.labels, task.text_column), task.output.name, bundle.path.name)
    staged = beside(args.report, "partial")
    try:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(page, encoding="utf-8")
        publish(staged, args.report)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", args.report) from None
    return 0


def _score_stdin(args: Namespace) -> int:
    from .stream import score_stream

    if sys.stdin is None:
        raise InputError("standard input is closed; send the texts there, one a line")
    extras = Extras(args.flags, args.abstain_below)
    with Scorer.load(args.bundle, args.device, args.threads, layout=_layout(args)) as scorer:
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
