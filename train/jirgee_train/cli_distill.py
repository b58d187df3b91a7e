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

from .recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Distillation:
    """The choices of one run of ``jirgee distill``. ``temperature``: both sides' logits are divided by it in the loss.
    ``hidden``: weight of the hidden states' distance; ``gold``: of the labelled rows' cross-entropy, beside the
    teacher's 1. ``most``: of the unlabelled texts, 0 for all. ``minutes``: 0 for no bound.
    """

    layers: int = 3
    most: int = 0
    epochs: int = 5
    minutes: float = 0.0
    temperature: float = 2.0
    hidden: float = 1.0
    gold: float = 0.5
    batch_size: int = 32
    learning_rate: float = 2e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    precision: str = "auto"
    seed: int = 42

    def __post_init__(self):
        checks = {
            "layers": self.layers >= 1,
            "most": self.most >= 0,
            "epochs": self.epochs >= 1,
            "minutes": 0 <= self.minutes < float("inf"),
            "temperature": 0 < self.temperature < float("inf"),
            "hidden": 0 <= self.hidden < float("inf"),
            "gold": 0 <= self.gold < float("inf"),
            "batch-size": self.batch_size >= 1,
            "learning-rate": 0 < self.learning_rate < 1,
            "warmup": 0 <= self.warmup < 1,
            "weight-decay": 0 <= self.weight_decay < float("inf"),
            "precision": self.precision in ("auto", "fp32", "bf16"),
            "seed": 0 <= self.seed < 2**32,
        }
        if bad := [name for name, good in checks.items() if not good]:
            raise InputError(f"--{bad[0]} {getattr(self, bad[0].replace('-', '_'))!r} is out of its range")

    def to_toml(self) -> str:
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in vars(self).items())


HELP = {
    "layers": "of the student",
    "most": "learn only from so many of --texts, those most like --data; 0: from all",
    "epochs": "passes over the texts, if the time allows",
    "minutes": "stop after so long, the learning rate having fallen to zero; 0: after --epochs",
    "temperature": "of the soft labels: higher shows more of what the teacher thinks of the other labels",
    "hidden": "weight of matching the teacher's hidden states",
    "gold": "weight of the labels of --data",
    "batch_size": "texts in one batch",
    "learning_rate": "peak learning rate of AdamW",
    "warmup": "share of the run over which the learning rate rises",
    "weight_decay": "AdamW weight decay",
    "precision": "auto, fp32 or bf16; auto is bf16 on CUDA, and bf16 doubles the speed of processors that have it",
    "seed": "of the order of texts",
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
    for name, default in vars(Distillation()).items():
        flag, kind = f"--{name.replace('_', '-')}", type(default)
        parser.add_argument(
            flag, type=kind, default=default, metavar=kind.__name__.upper(), help=f"{HELP[name]} (default {default})"
        )
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
    choices = Distillation(**{name: getattr(args, name) for name in vars(Distillation())})
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
