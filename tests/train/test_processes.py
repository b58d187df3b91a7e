"""One run in two processes (gloo, on the CPU): the first alone prints and writes; killed, it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jirgee_train import resume

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo is tried on Linux")
FLAGS = ["--epochs", "2", "--batch-size", "16", "--max-tokens", "24", "--learning-rate", "3e-3"]


def start(samples: Path, base: Path, out: Path, *more: str) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "jirgee_train", "train", str(samples), "-o", str(out), "--base", str(base), *FLAGS, *more]
    return subprocess.Popen(
        [*launcher, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_make_one_checkpoint_and_resume_to_the_same_weights(samples, original_base, tmp_path):
    whole = start(samples, original_base, tmp_path / "whole")
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    assert out.count("TF-IDF") == 1
    assert err.count("train: 540 rows") == err.count("epoch 2:") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"whole"}
    results = json.loads((tmp_path / "whole" / "eval_results.json").read_text())
    assert results["global_step"] == 2 * 17, "540 rows in batches of 2 x 16"

    killed = start(samples, original_base, tmp_path / "out", "--save-every", "0")
    work, deadline = tmp_path / "out.work", time.monotonic() + 240
    while killed.poll() is None and time.monotonic() < deadline:
        if (found := resume.latest(work)) and int(found.name.split("-")[1]) >= 4:
            break
        time.sleep(0.01)
    workers = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    for process in (killed.pid, *map(int, workers)):  # torchrun gives each worker a session of its own
        os.kill(process, signal.SIGKILL)
    killed.communicate()
    assert resume.latest(work), "it was over, or had not begun, when it was to be killed"
    again = start(samples, original_base, tmp_path / "out", "--resume")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out"))
    assert first == second
    assert not work.exists()


def test_a_refusal_is_one_line(samples, original_base, tmp_path):
    refused = start(samples, original_base, tmp_path / "out", "--max-tokens", "400")
    out, err = refused.communicate(timeout=300)
    assert refused.returncode == 1
    assert out == ""
    assert err.count("lower --max-tokens") == 1
    assert list(tmp_path.iterdir()) == []
