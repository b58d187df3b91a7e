"""Puts measured runs into the documentation: ``python -m benchmarks.publish DIR``.

Copies DIR/CASE.json to ``benchmarks/results/``, draws the plots into ``docs/benchmarks/`` and writes the tables between
the two marks of ``docs/benchmarks.md``. Nothing else of the page is touched.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from jirgee.errors import InputError, JirgeeError

from .plots import draw_plots
from .results import table

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: written by benchmarks.publish -->", "<!-- end of results -->"


def between(page: str, text: str) -> str:
    """``page`` with what is between the marks replaced by ``text``. Raises InputError if the marks are not there."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise InputError(f"the page needs the lines {BEGIN} and {END}, once each and in this order")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{rest.split(END)[1]}"


def publish(runs: Path, root: Path = ROOT) -> list[str]:
    """Publish every run of the directory ``runs``; returns the cases, those with the largest models first."""
    files = sorted(runs.glob("*.json"))
    if not files:
        raise InputError("holds no results; run: make bench", runs)
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    results.sort(key=lambda result: -result["shape"]["layers"] * result["shape"]["width"] ** 2)
    page, pictures, kept = (
        root / "docs" / "benchmarks.md",
        root / "docs" / "benchmarks",
        root / "benchmarks" / "results",
    )
    pictures.mkdir(exist_ok=True)
    kept.mkdir(exist_ok=True)
    sections = []
    for result in results:
        drawn = draw_plots(result, pictures)
        shown = [f"![{path.stem}](benchmarks/{path.name})" for path in drawn]
        sections.append("\n\n".join([table(result).strip(), *shown]))
    page.write_text(between(page.read_text(encoding="utf-8"), "\n\n".join(sections)), encoding="utf-8")
    for file in files:
        if file.parent.resolve() != kept.resolve():
            shutil.copyfile(file, kept / file.name)
    return [result["case"] for result in results]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description="results -> docs/benchmarks.md")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("bench/results"), metavar="DIR")
    try:
        print(f"docs/benchmarks.md: {', '.join(publish(parser.parse_args(argv).runs))}")
    except JirgeeError as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
