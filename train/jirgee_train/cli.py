"""``jirgee train``: parses, calls, prints. Imports PyTorch only when it runs."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from jirgee.bundle import check_free
from jirgee.command import Command
from jirgee.errors import optional_import
from jirgee.metrics import figures_table

from .processes import rank
from .recipe import CHOICES, DEFAULT_BASE, TYPES, Recipe, read_recipe, shipped

HELP = {
    "base": f"pre-trained encoder: a directory, a hub id (owner/name) or a name (default {DEFAULT_BASE})",
    "epochs": "passes over the training rows",
    "batch_size": "texts in one batch",
    "learning_rate": "peak learning rate of AdamW",
    "warmup": "share of the steps over which the learning rate rises",
    "weight_decay": "AdamW weight decay",
    "accumulate": "batches summed into one step (gradient accumulation)",
    "max_tokens": "longest encoding; texts are cut there, in training and for ever after",
    "patience": "stop after so many epochs without a better dev accuracy; 0 runs all",
    "dev_share": "share held out when there is no dev file",
    "ngrams": "of a hybrid: log2 of the buckets of its character n-grams, say 16; 0: the encoder alone",
    "precision": "fp32, or 16 bits where the device has them: bf16 or fp16 on CUDA, bf16 on some processors",
    "class_weights": "balanced: every class counts alike in the loss, however few its rows",
    "seed": "of the new head, the order of rows and the split",
}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", type=Path, help="a directory with train.* and dev.*, or labelled files")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-o", "--output", type=Path, metavar="CHECKPOINT", help="directory to write")
    what.add_argument(
        "--evaluate",
        type=Path,
        metavar="CHECKPOINT",
        help="train nothing: judge this checkpoint by the labelled files (of a directory: dev.*), as jirgee eval would "
        "its bundle; of the other flags only the columns and --json count",
    )
    parser.add_argument("--json", action="store_true", help="with --evaluate: print one JSON object")
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="NAME|FILE",
        help=f"a shipped recipe ({', '.join(shipped())}) or a TOML file; flags go over it",
    )
    parser.add_argument("--text-column", default="text", metavar="NAME")
    parser.add_argument("--label-column", default="label", metavar="NAME")
    parser.add_argument(
        "--keep-repeats", action="store_true", help="keep train rows that (nearly) repeat a row of the dev file"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the output if it exists; forget an interrupted run"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was interrupted (its state is in CHECKPOINT.work)"
    )
    parser.add_argument(
        "--save-every",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="of training that an interruption may cost (default 60; 0: none)",
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="train K times on all the rows but a K-th, judged by that: mean and spread, in CHECKPOINT/folds.json; "
        "writes no checkpoint",
    )
    parser.add_argument("--logdir", type=Path, metavar="DIR", help="write logs for TensorBoard there")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    defaults = Recipe()
    for name, kind in TYPES.items():
        default = "" if name == "base" else f" (default {getattr(defaults, name)})"
        choices = CHOICES.get(name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=choices,
            metavar=None if choices else kind.__name__.upper(),
            help=HELP[name] + default,
        )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ArgumentTypeError(f"must be 0 or more, not {text}")
    return seconds


def _evaluate(args: Namespace) -> int:
    from .evaluate import evaluate_checkpoint, read_rows

    rows = read_rows(args.data, args.text_column, args.label_column)
    figures = evaluate_checkpoint(args.evaluate, rows)
    print(json.dumps(figures, ensure_ascii=False) if args.json else figures_table(figures))
    return 0


def _cross_validate(args: Namespace, recipe: Recipe) -> int:
    from .folds import read_folds

    folds = read_folds(args.data, args.folds, recipe.seed, args.text_column, args.label_column)
    _quieten(args.quiet)
    from .cross_validate import cross_validate, folds_table

    print(folds_table(cross_validate(folds, recipe, args.output, args.quiet)))
    return 0


def _quieten(quiet: bool) -> None:
    import torch  # noqa: F401  its absence is reported by Command.check; heavy, so after the data is known to be good
    from transformers.utils import logging

    logging.set_verbosity_error()
    if quiet or not sys.stderr.isatty():
        logging.disable_progress_bar()


def _run(args: Namespace) -> int:
    if args.evaluate:
        return _evaluate(args)
    recipe = read_recipe(args.recipe, **{name: getattr(args, name) for name in TYPES})
    from .resume import check_work

    check_free(args.output, args.overwrite)
    if rank() == 0:  # the others may find the folder that the first has just made
        check_work(args.output, args.resume, args.overwrite)
    if args.logdir:
        optional_import("tensorboard", "tensorboard", "--logdir")

    from .data import describe, read_dataset

    columns = (args.text_column, args.label_column)
    if args.folds is not None:
        return _cross_validate(args, recipe)
    data = read_dataset(args.data, recipe.dev_share, recipe.seed, *columns, args.keep_repeats)
    _quieten(args.quiet)
    from .run import describe_rows, open_base, train

    opened = open_base(recipe, data.classes)
    if not args.quiet:  # only now: a refusal above is one line
        print(describe(data), describe_rows(data, *opened[:2]), sep="\n", file=sys.stderr)
    results = train(opened, data, recipe, args.output, args.quiet, args.resume, args.save_every, args.logdir)
    if rank() > 0:
        return 0
    baseline = results["baseline_tfidf"]
    print(f"{'':24}{'accuracy':>10}{'macro F1':>10}")
    print(f"{'TF-IDF + logistic':24}{baseline['accuracy']:10.4f}{baseline['macro_f1']:10.4f}")
    for name in ("encoder", "ngrams", "hybrid"):
        if part := results.get(name):
            print(f"{name:24}{part['accuracy']:10.4f}{part['macro_f1']:10.4f}")
    print(f"expected calibration error {results['ece_uncalibrated']:.4f} -> {results['ece']:.4f} (cross-fitted)")
    steps, seconds, rows = results["global_step"], results["seconds"], results["dev_rows"]
    print(f"{args.output}: {steps} steps in {seconds:.0f} s; judged on {rows} dev rows")
    if not args.quiet and not (args.output / "report.html").is_file():
        print(f"{args.output}: no report.html, which needs matplotlib: pip install 'jirgee[report]'", file=sys.stderr)
    return 0


TRAIN = Command(
    help="fine-tune a BERT on labelled texts",
    add_arguments=_add_arguments,
    run=_run,
    extra="train",
    needs=("torch", "transformers", "accelerate", "safetensors", "sklearn"),
    epilog="""examples:
  jirgee train samples -o checkpoint
  jirgee train samples -o checkpoint --recipe hybrid
  jirgee train samples -o checkpoint --resume
  jirgee train samples/dev.tsv --evaluate checkpoint
  torchrun --nproc-per-node 2 -m jirgee_train train samples -o checkpoint""",
)
