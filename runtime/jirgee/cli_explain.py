"""``jirgee explain``: why one text got its label, in the terminal, as JSON, or as a page to share."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from .bundle import Bundle, check_free
from .command import Command, device_arguments
from .errors import InputError
from .scorer import Scorer
from .sinks import beside, publish

HALF = 10  # cells on each side of the middle of a bar
FOR, AGAINST, PLAIN = "\x1b[1;34m", "\x1b[33m", "\x1b[0m"


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("text", help="the text, or - for all of standard input")
    parser.add_argument("--label", metavar="LABEL", help="explain this label (default: the most probable)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page that needs nothing else")
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    device_arguments(parser)


def _run(args: Namespace) -> int:
    from .explain import explain

    text = sys.stdin.read().removesuffix("\n") if args.text == "-" else args.text
    if args.html:
        check_free(args.html, args.overwrite)
    bundle = Bundle.load(args.bundle)
    if args.label is not None and args.label not in bundle.labels:
        raise InputError(f"no such label: {args.label!r}; the bundle's are {', '.join(bundle.labels)}")
    wanted = bool(args.html or args.json)
    with Scorer.load(bundle, args.device, args.threads) as scorer:
        found = explain(scorer, text, attention=wanted)
    if args.html:
        _write_page(args.html, found, bundle.path.name)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
    elif not args.html:
        print("\n".join(drawn(found, args.label or found["label"], _colours())))
    return 0


def _write_page(path: Path, found: dict[str, Any], bundle: str) -> None:
    from .explain_page import render

    staged = beside(path, "partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(render(found, bundle), encoding="utf-8")
        publish(staged, path)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", path) from None


def _colours() -> bool:
    """A terminal that wants them: https://no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def drawn(found: dict[str, Any], label: str, colours: bool) -> list[str]:
    """Lines for a terminal: the labels, then each piece with a bar to the right (for ``label``) or left (against)."""
    probs, tokens = found["probs"], found["tokens"]
    lines = ["   ".join(f"{name} {p:.3f}" for name, p in sorted(probs.items(), key=lambda item: -item[1])), ""]
    if found["truncated"]:
        lines.append(f"cut to the first {len(tokens)} pieces: the text is longer than the model reads")
    lines.append(f"{'effect':>7}  {'against':<{HALF}}|{'for':<{HALF}}  {label} without  piece")
    most = max([abs(token["effect"][label]) for token in tokens], default=0.0) or 1.0
    for token in tokens:
        effect = token["effect"][label]
        cells = round(HALF * abs(effect) / most)
        left, right = ("", "█" * cells) if effect >= 0 else ("░" * cells, "")
        bar, shown = f"{left:>{HALF}}|{right:<{HALF}}", " ".join(token["text"].split())
        if colours and cells:
            bar, shown = (f"{FOR if effect > 0 else AGAINST}{part}{PLAIN}" for part in (bar, shown))
        lines.append(f"{effect:+7.2f}  {bar}  {token['without'][label]:>{len(label) + 8}.3f}  {shown}")
    return lines


EXPLAIN = Command(
    "show what each piece of a text did to its score",
    _arguments,
    _run,
    epilog='example: jirgee explain bundle "Гэрээсээ 8 цагт гараад буудал дээрээ ирлээ" --html why.html',
)
