"""One core and 512 MB of address space: the same output as without limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.footprint import ten_thousand

TWEETS = 5000
LIMIT = 512 * 2**20
HELP = {"MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}  # of the environment: the user has none
LIMITED = """
import os, resource, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from jirgee.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks on this system")
def test_five_thousand_tweets_on_one_core_in_512_mb(
    default_bundle: Path, sample_texts: list[str], tmp_path: Path
) -> None:
    tweets = tmp_path / "tweets.jsonl"
    lines = ten_thousand(sample_texts, tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    tweets.write_text("".join(lines[:TWEETS]), encoding="utf-8")
    words = ["score", str(default_bundle), str(tweets), "--low-memory", "--quiet", "-o"]
    limited = subprocess.run(
        [sys.executable, "-c", LIMITED, str(LIMIT), *words, tmp_path / "limited.csv"],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in HELP},
    )
    assert limited.returncode == 0, limited.stderr
    free = subprocess.run(
        [sys.executable, "-m", "jirgee.cli", *words, tmp_path / "free.csv"], capture_output=True, text=True
    )
    assert free.returncode == 0, free.stderr
    assert (tmp_path / "limited.csv").read_bytes() == (tmp_path / "free.csv").read_bytes()
    assert len((tmp_path / "free.csv").read_text(encoding="utf-8").splitlines()) == TWEETS + 1
