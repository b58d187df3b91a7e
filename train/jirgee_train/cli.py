"""``jirgee train``: parses, calls, prints. Imports PyTorch only when it runs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from jirgee.bundle import check_free
from jirgee.command import Command

from .recipe import DEFAULT_BASE, TYPES, Recipe, read_recipe

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
    "seed": "of the new head, the order of rows and the split",
}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", type=Path, help="a directory with train.* and dev.*, or labelled files")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="CHECKPOINT", help="directory to write")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="a recipe in TOML; flags go over it")
    parser.add_argument("--text-column", default="text", metavar="NAME")
    parser.add_argument("--label-column", default="label", metavar="NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    defaults = Recipe()
    for name, kind in TYPES.items():
        default = "" if name == "base" else f" (default {getattr(defaults, name)})"
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=HELP[name] + default
        )


def _run(args: Namespace) -> int:
    recipe = read_recipe(args.recipe, **{name: getattr(args, name) for name in TYPES})
    check_free(args.output, args.overwrite)

    from .data import describe, read_dataset

    data = read_dataset(args.data, recipe.dev_share, recipe.seed, args.text_column, args.label_column)
    import torch  # noqa: F401  its absence is reported by Command.check; heavy, so after the data is known to be good
    from transformers.utils import logging

    logging.set_verbosity_error()
    if args.quiet or not sys.stderr.isatty():
        logging.disable_progress_bar()

    from .run import open_base, train

    opened = open_base(recipe, data.classes)
    print(describe(data), file=sys.stderr)  # only now: a refusal above is one line
    results = train(opened, data, recipe, args.output, args.quiet)
    baseline = results["baseline_tfidf"]
    print(f"{'':24}{'accuracy':>10}{'macro F1':>10}")
    print(f"{'TF-IDF + logistic':24}{baseline['accuracy']:10.4f}{baseline['macro_f1']:10.4f}")
    for name in ("encoder", "ngrams", "hybrid"):
        if part := results.get(name):
            print(f"{name:24}{part['accuracy']:10.4f}{part['macro_f1']:10.4f}")
    print(f"expected calibration error {results['ece_uncalibrated']:.4f} -> {results['ece']:.4f} (cross-fitted)")
    steps, seconds, rows = results["global_step"], results["seconds"], results["dev_rows"]
    print(f"{args.output}: {steps} steps in {seconds:.0f} s; judged on {rows} dev rows")
    return 0


TRAIN = Command(
    help="fine-tune a BERT on labelled texts",
    add_arguments=_add_arguments,
    run=_run,
    extra="train",
    needs=("torch", "transformers", "accelerate", "safetensors", "sklearn"),
    epilog="example: jirgee train samples -o checkpoint",
)
