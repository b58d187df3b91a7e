"""``jirgee adapt``: parses, calls, prints. Imports PyTorch only when it runs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from jirgee.bundle import check_free
from jirgee.command import Command
from jirgee.errors import InputError

from .choices import COMMON, Choice, add_flags, check, chosen
from .recipe import DEFAULT_BASE


@dataclass(frozen=True)
class Adaptation:
    """The choices of one run of ``jirgee adapt``. ``minutes``: 0 for no bound. ``share``: of the tokens, masked."""

    base: str = DEFAULT_BASE
    minutes: float = 0.0
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    share: float = 0.15
    max_tokens: int = 128
    precision: str = "auto"
    seed: int = 42

    def __post_init__(self):
        check(self, TABLE)


TABLE = COMMON | {
    "base": Choice("pre-trained encoder: a directory, a hub id (owner/name) or a name"),
    "learning_rate": replace(
        COMMON["learning_rate"], help="peak learning rate of AdamW; a new head's is at least 1e-3"
    ),
    "share": Choice("share of the tokens that is masked", lambda value: 0 < value < 1),
    "max_tokens": Choice("longest encoding; texts are cut there", lambda value: value >= 4),
    "seed": replace(COMMON["seed"], help="of the order of texts and the masks"),
}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "texts", nargs="+", type=Path, help="files of texts: .txt (one a line), .tsv, .csv, .jsonl; .gz"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="BASE", help="base directory to write")
    add_flags(parser, Adaptation(), TABLE)
    parser.add_argument("--text-column", default="text", metavar="NAME")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run (OUTPUT.work)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output and an interrupted run")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _run(args: Namespace) -> int:
    from .resume import check_alone, work_of

    choices = chosen(Adaptation(), args)
    check_free(args.output, args.overwrite)
    work = work_of(args.output)
    check_alone(args.output)
    if (work / "state.pt").is_file() and not (args.resume or args.overwrite):
        raise InputError("holds an interrupted run; go on with --resume, or start again with --overwrite", work)

    from .unlabelled import describe, read_texts

    texts, left_out = read_texts(args.texts, args.text_column)
    if len(texts) < 2:
        raise InputError("one distinct text is too few: some are held out to judge by", args.texts[0])
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    from .adapt import adapt

    say = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    say(describe(texts, left_out))
    result = adapt(texts, choices, args.output, work, args.resume, say)
    before, after = result["before"], result["after"]
    print(f"{'':24}{'before':>10}{'after':>10}")
    print(f"{'held-out masked-LM loss':24}{before['loss']:10.4f}{after['loss']:10.4f}")
    print(f"{'held-out masked accuracy':24}{before['accuracy']:10.4f}{after['accuracy']:10.4f}")
    print(
        f"{args.output}: {result['steps']} steps over {result['texts']} texts in {result['seconds']:.0f} s; "
        f"judged on {result['held_out']} held-out texts"
    )
    return 0


ADAPT = Command(
    help="go on pre-training a base on unlabelled texts",
    add_arguments=_add_arguments,
    run=_run,
    extra="train",
    needs=("torch", "transformers", "safetensors"),
    epilog="example: jirgee adapt tweets.txt.gz -o base --minutes 60; jirgee train data -o checkpoint --base base",
)
