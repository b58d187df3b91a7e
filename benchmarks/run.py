"""``make bench``: every peer and every recipe on the same weights and texts, each in a fresh process, in turns.

    python -m benchmarks.run [--all] [--cases NAME...] [--peers NAME...] [--texts FILE] [--rounds N] [-o DIR]

For each case: convert what each peer needs (kept for the next run), try the peers' settings, then measure in rounds;
in every round each peer gets a process of its own, and who goes first moves on by one. Writes DIR/CASE.json, and from
it DIR/CASE.md and the plots.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jirgee.errors import InputError, JirgeeError, optional_import

from . import measure
from .cases import MOST_TEXTS, SHAPES, TRAINED
from .peers import choose

CASES, RECIPES = ("bert-base", "4x312"), ("int8-static", "int8", "fp32")  # without --all; what --peers names is taken


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="jirgee against its peers")
    parser.add_argument(
        "--cases", nargs="+", choices=[*SHAPES, *TRAINED], metavar="NAME", help=f"of {', '.join([*SHAPES, *TRAINED])}"
    )
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="a trained one, as a case more")
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="modules or rows (default: all)")
    parser.add_argument("--all", action="store_true", help="every case and every recipe of ours (hours)")
    parser.add_argument("--texts", type=Path, default=Path("samples/tweets.csv"), help="a file that jirgee score reads")
    parser.add_argument("--tokenizer", type=Path, help="SentencePiece model (default: trained on the texts)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--unique",
        type=int,
        default=160,
        help=f"different texts in a round of bert-base, up to {MOST_TEXTS} times that of smaller shapes (default 160)",
    )
    parser.add_argument("--singles", type=int, default=40, help="texts scored alone in a round (default 40)")
    parser.add_argument("--dump", type=int, default=0, metavar="ROWS", help="of the file as it is (default 0: all)")
    parser.add_argument("--no-try", action="store_true", help="take each peer's first setting instead of the best")
    parser.add_argument("--prepare-only", action="store_true", help="convert for every peer and stop")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where conversions are kept (default bench)")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results"), metavar="DIR")
    args = parser.parse_args(argv)
    if min(args.rounds, args.unique, args.singles) < 1 or args.dump < 0:
        parser.error("--rounds, --unique and --singles must be at least 1, --dump at least 0")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        try:
            peers = choose(args.peers)
        except ValueError as error:
            raise InputError(str(error)) from None
        for module, extra in (("torch", "train"), ("optimum.exporters.onnx", "export"), ("matplotlib", "report")):
            optional_import(module, f"jirgee[{extra}]", "the benchmark")
        if not args.peers and not args.all:
            peers = [peer for peer in peers if peer.module != "ours" or peer.variant in RECIPES]
        every = [name for name in (*SHAPES, *TRAINED) if name != "tiny"]
        named = args.cases or (every if args.all else [] if args.checkpoint else CASES)
        for name, given in [(name, None) for name in named] + [(path.name, path) for path in args.checkpoint]:
            case = measure.ready_case(name, given, args)
            measure.prepare(case, peers)
            if args.prepare_only:
                continue
            result = measure.run(case, peers, args)
            write(result, args.output)
    except JirgeeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def write(result: dict, out: Path) -> None:
    """The JSON first: nothing that comes after may lose a run."""
    from .plots import draw_plots
    from .results import table

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{result['case']}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = table(result)
    (out / f"{result['case']}.md").write_text(text, encoding="utf-8")
    draw_plots(result, out)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
