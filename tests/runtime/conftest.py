"""Fixtures of the runtime's tests: a bundle without a real model, and the command as a user's shell runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jirgee.bundle import Bundle, write
from jirgee.int8 import probe_model
from jirgee.scorer import Scorer
from jirgee.tokens import TokenizerSpec

MakeBundle = Callable[..., Bundle]
Jirgee = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a bundle whose hashes hold but whose graph is no classifier: for what comes before onnxruntime."""

    def make(name: str = "fake", overwrite: bool = False, model: bytes | None = None, **changes: Any) -> Bundle:
        fields = {
            "labels": ["no", "yes"],
            "inputs": ["input_ids", "attention_mask"],
            "max_tokens": 16,
            "tokenizer": TokenizerSpec("sentencepiece", "pieces.model", 0, 1, (2,), (3,)),
            "recipe": "fp32",
            "safe_on": "any",
            "temperature": 1.0,
            "ngram_weight": 0.0,
            "tolerance": 0.0,
            "provenance": {"made by": "a test"},
        }
        files: dict[str, bytes | Path] = {
            "model.onnx": probe_model() if model is None else model,
            "pieces.model": b"pieces" * 40,
            "report.json": b"{}\n",
            "README.md": "# жиргээ\n".encode(),
        }
        return write(tmp_path / name, files, overwrite=overwrite, **fields | changes)

    return make


@pytest.fixture(scope="session")
def scorer(tiny_bundle: Path) -> Iterator[Scorer]:
    with Scorer.load(tiny_bundle, "cpu", threads=2) as loaded:
        yield loaded


@pytest.fixture
def jirgee(tmp_path: Path) -> Jirgee:
    """Run ``jirgee ARGS`` in a process of its own, in ``tmp_path``."""

    def run(*args: object, input: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jirgee.cli", *map(str, args)]
        return subprocess.run(
            command, input=input, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, timeout=120
        )

    return run
