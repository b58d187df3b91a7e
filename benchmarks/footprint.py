"""What jirgee takes of a small machine: disk, memory, time to the first score; with a budget where there is one.

    python -m benchmarks.footprint --bundle BUNDLE [--tiny BUNDLE] [--texts FILE] [--json]

Budgets are bytes and counts, which a busy machine does not change; times are told without one. Exits with 1 if a
budget is exceeded. The installation is measured in a new virtual environment, of which the bytes of onnxruntime, of
what onnxruntime needs and of numpy are left out, and so is bytecode, which Python writes where it may.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.bench import COLD_STARTS, cold_start
from jirgee.bundle import Bundle
from jirgee.machine import describe

ROOT = Path(__file__).resolve().parents[1]
MB = 1e6
# Bytes, unless the name says otherwise.
BUDGETS = {
    "installed without onnxruntime and numpy": 6 * MB,
    "default bundle": 30 * MB,
    "tiny bundle": 8 * MB,
    "memory of 10,000 tweets": 220 * MB,
    "memory of 10,000 tweets, --low-memory": 150 * MB,
    "modules of import jirgee beyond Python and numpy": 40,
}
TWEETS = 10_000
LEFT_OUT = {"onnxruntime", "numpy", "protobuf", "flatbuffers", "packaging", "pip", "setuptools"}
SIZES = """
import json, sys
from importlib.metadata import distributions
def size(d):
    files = [f.locate() for f in d.files or [] if "__pycache__" not in str(f)]
    return sum(f.stat().st_size for f in files if f.is_file())
print(json.dumps({d.name: size(d) for d in distributions()}))
"""
IMPORT = """
import sys, time
import numpy
before, began = set(sys.modules), time.perf_counter()
import jirgee
seconds = time.perf_counter() - began
new = {name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names}
print(seconds, len(new))
"""


@dataclass(frozen=True)
class Row:
    """``value``: bytes, a count, or seconds, as ``unit`` says. ``budget``: of the same unit; None: only told."""

    name: str
    value: float
    unit: str
    budget: float | None = None

    @property
    def kept(self) -> bool:
        return self.budget is None or self.value <= self.budget


def row(name: str, value: float, unit: str = "bytes") -> Row:
    return Row(name, value, unit, BUDGETS.get(name))


def installed(python: Path) -> dict[str, int]:
    """Distribution -> bytes on disk in the environment of ``python``, bytecode not counted."""
    return json.loads(subprocess.run([python, "-c", SIZES], capture_output=True, text=True, check=True).stdout)


def install(home: Path) -> Path:
    """``pip install 'jirgee[cpu]'`` of this clone into a new environment at ``home``; returns its Python."""
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", "constraints.txt", ".[cpu]"]
    subprocess.run(pip, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return python


def base_size(sizes: dict[str, int]) -> int:
    """Bytes that jirgee adds to onnxruntime (with what that needs) and numpy."""
    return sum(size for name, size in sizes.items() if name.lower() not in LEFT_OUT)


def import_cost(python: str | Path = sys.executable) -> tuple[float, int]:
    """Seconds and number of modules that ``import jirgee`` adds to Python with numpy."""
    out = subprocess.run([python, "-c", IMPORT], capture_output=True, text=True, check=True).stdout.split()
    return float(out[0]), int(out[1])


def job_memory(bundle: Path, texts: Path, *flags: str) -> int:
    """Peak resident bytes of ``jirgee score`` over ``texts``, in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "jirgee.cli", "score", bundle, texts, "-o", Path(work) / "out.jsonl"]
        done = subprocess.run([*command, "--log-json", *flags], capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])["peak_rss_bytes"]


def ten_thousand(texts: list[str], out: Path) -> Path:
    """10,000 different texts: the given ones, then pairs of halves of them, in a fixed random order."""
    rng = np.random.default_rng(1)
    found = dict.fromkeys(texts[:TWEETS])
    while len(found) < TWEETS:
        first, second = (texts[place].split() for place in rng.integers(0, len(texts), 2))
        found[" ".join(first[: len(first) // 2 + 1] + second[len(second) // 2 :])] = None
    out.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found), encoding="utf-8")
    return out


def measure(bundle: Path, tiny: Path | None, texts: list[str], with_install: bool) -> list[Row]:
    """All rows of the table, in its order."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        if with_install:
            sizes = installed(install(work / "venv"))
            rows.append(row("installed, all", sum(sizes.values())))
            rows.append(row("installed without onnxruntime and numpy", base_size(sizes)))
        seconds, modules = import_cost()
        rows.append(row("import jirgee", seconds, "s"))
        rows.append(row("modules of import jirgee beyond Python and numpy", modules, ""))
        tweets = ten_thousand(texts, work / "tweets.jsonl")
        for name, path in (("default", bundle), ("tiny", tiny)):
            if path:
                rows.append(row(f"{name} bundle", Bundle.load(path).size))
                starts = [cold_start(path, texts[0], "cpu", None) for _ in range(COLD_STARTS)]
                seconds = float(np.median([taken for taken, _ in starts]))
                rows.append(row(f"{name}: process start to first score", seconds, "s"))
                rows.append(row(f"{name}: memory at the first score", max(memory for _, memory in starts)))
        rows.append(row("memory of 10,000 tweets", job_memory(bundle, tweets)))
        rows.append(row("memory of 10,000 tweets, --low-memory", job_memory(bundle, tweets, "--low-memory")))
    return rows


def told(rows: list[Row]) -> str:
    """The table in Markdown."""

    def number(value: float | None, unit: str) -> str:
        if value is None:
            return ""
        return f"{value / MB:.1f} MB" if unit == "bytes" else f"{value:.2f} s" if unit == "s" else f"{value:.0f}"

    lines = ["| | measured | budget | |", "|---|---:|---:|---|"]
    for one in rows:
        verdict = "" if one.budget is None else "kept" if one.kept else "**exceeded**"
        lines.append(f"| {one.name} | {number(one.value, one.unit)} | {number(one.budget, one.unit)} | {verdict} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    from jirgee.rows import Reject, read_rows

    parser = argparse.ArgumentParser(
        "python -m benchmarks.footprint", description="what jirgee takes of a small machine"
    )
    parser.add_argument("--bundle", type=Path, required=True, help="the default int8 bundle, as make demo leaves it")
    parser.add_argument("--tiny", type=Path, help="a distilled bundle, in 4 bits")
    parser.add_argument("--texts", type=Path, default=ROOT / "samples" / "tweets.csv", help="rows with a text column")
    parser.add_argument("--no-install", action="store_true", help="leave out what a new installation takes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    texts = [str(one.record["text"]) for one in read_rows(args.texts) if not isinstance(one, Reject)]
    rows = measure(args.bundle, args.tiny, list(dict.fromkeys(texts)), not args.no_install)
    facts: dict[str, Any] = {"machine": describe(), "rows": [asdict(one) | {"kept": one.kept} for one in rows]}
    print(json.dumps(facts, ensure_ascii=False) if args.json else told(rows))
    return 0 if all(one.kept for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
