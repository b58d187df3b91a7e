"""``jirgee distill``: parses, calls, prints. Imports PyTorch only when it runs."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from jirgee.bundle import check_free
from jirgee.checkpoint import read_labels
from jirgee.command import Command
from jirgee.errors import InputError

from .choices import COMMON, Choice, add_flags, check, chosen, from_zero
from .recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Distillation:
    """The choices of one run of ``jirgee distill``. ``temperature``: both sides' logits are divided by it in the loss.
    ``hidden``: weight of the hidden states' distance; ``gold``: of the labelled rows' cross-entropy, beside the
    teacher's 1. ``ngrams``: a hybrid's are kept beside the student, or learned by it. ``most``: of the unlabelled
    texts, 0 for all. ``minutes``: 0 for no bound.
    """

    layers: int = 3
    most: int = 0
    epochs: int = 5
    minutes: float = 0.0
    temperature: float = 2.0
    hidden: float = 1.0
    gold: float = 0.5
    ngrams: str = "keep"
    batch_size: int = 32
    learning_rate: float = 2e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    precision: str = "auto"
    seed: int = 42

    def __post_init__(self):
        check(self, TABLE)

    def to_toml(self) -> str:
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in vars(self).items())


TABLE = COMMON | {
    "layers": Choice("of the student", lambda value: value >= 1),
    "most": Choice("learn only from so many of --texts, those most like --data; 0: from all", from_zero),
    "temperature": Choice(
        "of the soft labels: higher shows more of what the teacher thinks of the other labels",
        lambda value: 0 < value < float("inf"),
    ),
    "hidden": Choice("weight of matching the teacher's hidden states", from_zero),
    "gold": Choice("weight of the labels of --data", from_zero),
    "ngrams": Choice(
        "of a hybrid teacher: keep (they run beside the student too, and cost next to nothing) or learn (they do not)",
        lambda value: value in ("keep", "learn"),
    ),
}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("teacher", type=Path, help="checkpoint directory of jirgee train")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="STUDENT", help="checkpoint to write")
    parser.add_argument(
        "--texts",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="unlabelled: .txt (one a line), .csv, .jsonl; .gz",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="labelled train.* and dev.*; dev chooses the epoch")
    add_flags(parser, Distillation(), TABLE)
    parser.add_argument("--text-column", default="text", metavar="NAME")
    parser.add_argument("--label-column", default="label", metavar="NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _split_of(teacher: Path) -> tuple[float, int]:
    """Share and seed of the dev rows where there is no dev file: those that the teacher did not learn from."""
    path = teacher / "recipe.toml"
    recipe = read_recipe(path) if path.is_file() else Recipe()
    return recipe.dev_share, recipe.seed


def _run(args: Namespace) -> int:
    choices = chosen(Distillation(), args)
    check_free(args.output, args.overwrite)
    if not args.texts and not args.data:
        raise InputError("no texts to learn from; pass --texts FILE, --data DIR or both")
    if not (args.teacher / "config.json").is_file():
        raise InputError("is not a checkpoint: it has no config.json; give a directory of jirgee train", args.teacher)
    classes = read_labels(args.teacher)
    if not classes or len(classes) < 2:
        raise InputError(
            "names no labels (id2label), so it is no classifier; give a checkpoint of jirgee train", args.teacher
        )

    from .data import read_dataset
    from .unlabelled import describe, read_texts

    data = None
    if args.data:
        found = read_dataset([args.data], *_split_of(args.teacher), args.text_column, args.label_column)
        found.train.indices(classes)
        found.dev.indices(classes)
        data = replace(found, classes=classes)
    texts, line = [], "texts: only the labelled ones"
    if args.texts:
        texts, left_out = read_texts(args.texts, args.text_column, without=data.dev.texts if data else ())
        line = describe(texts, left_out)
    if choices.most:
        if not data:
            raise InputError("--most keeps the texts most like the labelled ones; pass these with --data DIR")
        from .nearest import nearest

        texts = nearest(texts, data.train.texts, choices.most, choices.seed)
        line += f"; the {len(texts)} most like the labelled ones are used"
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    from .distill import distill

    say = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    say(line)
    results = distill(args.teacher, texts, data or classes, choices, args.output, say)
    if data:
        print(f"{'':24}{'accuracy':>10}{'macro F1':>10}")
        for name in ("teacher", "student"):
            print(f"{name:24}{results[name]['accuracy']:10.4f}{results[name]['macro_f1']:10.4f}")
    on = f"{results['judged_on']} {'dev' if data else 'held-out'} texts"
    print(f"says the teacher's label on {100 * results['agreement']:.1f} % of {on}")
    layers, ratio = results["layers"], results["operations_ratio"]
    print(f"encoder operations: {layers[0]} layers -> {layers[1]}, {ratio:.2f} times fewer (embeddings not counted)")
    print(f"{args.output}: {results['global_step']} steps over {results['texts']} texts in {results['seconds']:.0f} s")
    return 0


DISTILL = Command(
    help="train a small student on what a checkpoint says",
    add_arguments=_add_arguments,
    run=_run,
    extra="train",
    needs=("torch", "transformers", "safetensors", "sklearn"),
    epilog="example: jirgee distill checkpoint -o student --layers 3 --texts tweets.txt.gz --data samples",
)
