"""One job in a fresh process: ``python -m benchmarks.worker JOB.json`` writes the file that the job names as result.

``prepare``  a peer's own form of the model
``measure``  cold start, latency of one text, throughput over many, peak memory
``try``      throughput and latency of each setting worth trying
``peak``     what this machine multiplies at most

The parent puts the moment of starting this process into ``STARTED``; the clock is the machine's, the same for both.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from .cases import Case
from .peers import Peer

STARTED = "JIRGEE_BENCH_STARTED"  # time.monotonic_ns() just before the process was started
WARM_UP = 24  # texts scored before anything but the cold start is measured


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """The figures of one round, or of those of its ``purposes`` that ``settings`` are for. ``latency_ms``: of each
    single text; rates in texts a second; memory in bytes. ``dump_gain``: the file's rows as they are, in a second,
    over different texts, measured before and behind, for a long file meets other moments of the machine.
    """
    peer = Peer(job["module"], job["variant"])
    code, case, out = peer.code, Case(Path(job["case"])), Path(job["out"])
    loaded = code.load(case, out, peer.variant, job["settings"])
    code.score(loaded, [job["first"]])
    cold_start = (time.monotonic_ns() - int(os.environ[STARTED])) / 1e9

    from jirgee.machine import peak_rss

    found: dict[str, Any] = {"cold_start_s": cold_start, "first_rss_bytes": peak_rss()}
    sample = case.sample()
    if "latency" in job["purposes"]:
        singles = sample.unique[: job["singles"]]
        for text in singles[:5]:
            code.score(loaded, [text])
        found["latency_ms"] = [1000 * _seconds(code, loaded, [text]) for text in singles]
    if "throughput" in job["purposes"]:
        code.score(loaded, sample.unique[:WARM_UP])
        unique = sample.unique[: max(1, round(peer.facts.share * len(sample.unique)))]
        began = time.perf_counter()
        probs = code.score(loaded, unique)
        seconds = time.perf_counter() - began
        found["unique_per_s"] = len(unique) / seconds
        if job["raw"]:
            raw = sample.raw[: max(1, round(peer.facts.share * len(sample.raw)))]
            found["raw_per_s"] = len(raw) / _seconds(code, loaded, raw)
        if job["probs"]:
            import numpy as np

            np.save(job["probs"], probs)
    found["peak_rss_bytes"] = peak_rss()
    if "throughput" in job["purposes"] and job["dump"]:
        dump = case.dump()
        found["dump_per_s"] = len(dump) / _seconds(code, loaded, dump)
        found["dump_rss_bytes"] = peak_rss()
        around = 2 * len(unique) / (seconds + _seconds(code, loaded, unique))
        found["dump_gain"] = found["dump_per_s"] / around
    code.close(loaded)
    return found


def attempt(job: dict[str, Any]) -> dict[str, Any]:
    """Texts a second of each setting of ``job["settings"]`` (purpose -> settings), after a warm-up."""
    peer = Peer(job["module"], job["variant"])
    code, case = peer.code, Case(Path(job["case"]))
    texts = case.sample().unique
    found: dict[str, list[float]] = {}
    for purpose, rows in job["settings"].items():
        found[purpose] = []
        for settings in rows:
            loaded = code.load(case, Path(job["out"]), peer.variant, settings)
            if purpose == "throughput":
                batch = texts[: max(8, round(peer.facts.share * job["texts"]))]
                code.score(loaded, batch[:WARM_UP])
                rate = len(batch) / _seconds(code, loaded, batch)
            else:
                for text in texts[:5]:
                    code.score(loaded, [text])
                rate = 1 / sorted(_seconds(code, loaded, [text]) for text in texts[:15])[7]
            found[purpose].append(rate)
            code.close(loaded)
    return found


def _seconds(code: Any, loaded: Any, texts: list[str]) -> float:
    began = time.perf_counter()
    code.score(loaded, texts)
    return time.perf_counter() - began


def peak(job: dict[str, Any]) -> dict[str, Any]:
    from .peak import measure_peaks

    return measure_peaks(job["seconds"])


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    peer = Peer(job["module"], job["variant"])
    peer.code.prepare(Case(Path(job["case"])), Path(job["out"]), peer.variant)
    return {}


MODES = {"prepare": prepare, "measure": measure, "try": attempt, "peak": peak}


def main(argv: list[str]) -> int:
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    found = MODES[job["mode"]](job)
    Path(job["result"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
