"""What goes wrong on a user's machine, by the command line: one line that says what to do, and nothing left behind."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import pytest
import requests
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError

from jirgee.cli import main
from jirgee_train import adapt, bases, distill, resume

MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
FULL = SafetensorError("I/O error: No space left on device (os error 28)")


def failing(error):
    def fail(*args, **rest):
        raise error

    return fail


@pytest.fixture
def said(capsys, tmp_path, samples, original_base, trained):
    """Run a command that must fail, writing to ``out``; the line it leaves, and nothing but that."""
    words = {
        "train": ["train", samples, "--base", original_base, "--max-tokens", 24, "--epochs", 1],
        "adapt": ["adapt", samples / "train.tsv", "--base", original_base, "--max-tokens", 24],
        "distill": ["distill", trained.out, "--data", samples, "--layers", 1, "--epochs", 1],
    }

    def run(name: str, *more: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        line = [*words[name], "-o", tmp_path / "out", "--quiet", *more]
        assert main([str(word) for word in line]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        assert sorted(tmp_path.rglob("*")) == before
        return err.removeprefix("jirgee: ").rstrip("\n")

    return run


def test_out_of_memory_names_the_flag_to_lower(said, monkeypatch):
    monkeypatch.setattr(transformers.Trainer, "train", failing(MEMORY))
    monkeypatch.setattr(adapt._Run, "_one_step", failing(MEMORY))
    monkeypatch.setattr(distill, "lesson_loss", failing(MEMORY))
    for name in ("train", "adapt", "distill"):
        line = said(name)
        assert line.startswith("out of memory while training; lower --batch-size (now "), name


def test_a_full_disk(said, monkeypatch, tmp_path):
    monkeypatch.setattr(adapt, "save_checkpoint", failing(FULL))
    monkeypatch.setattr(distill, "save_checkpoint", failing(FULL))
    remedy = "the disk is full; make room, or write elsewhere with -o"
    assert said("adapt") == f"{tmp_path / 'out.work'}: {remedy}"
    assert said("distill") == f"{tmp_path / 'out'}: {remedy}"


def test_the_hub_cannot_be_reached(said, monkeypatch):
    unreachable = LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub")
    unreachable.__cause__ = requests.ConnectionError("Failed to resolve the name")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(unreachable))
    for name in ("train", "adapt"):
        line = said(name, "--base", "owner/model")
        assert line.startswith("the hub cannot be reached for 'owner/model' (Failed to resolve the name); ")
        assert line.endswith("--base DIR")
        assert "no base 'e5-smal': give a model directory" in said(name, "--base", "e5-smal")


def test_tensorflow_weights_name_the_line_that_converts_them(said, original_base, tmp_path):
    base = tmp_path / "tensorflow"
    base.mkdir()
    for name in ("bert_config.json", "mn_uncased.model", "mn_uncased.vocab"):
        (base / name).write_bytes((original_base / name).read_bytes())
    (base / "bert_model.ckpt.index").write_bytes(b"")
    for name in ("train", "adapt"):
        line = said(name, "--base", base)
        assert f"transformers-cli convert --model_type bert --tf_checkpoint {base}/bert_model.ckpt" in line


def test_a_second_run_at_once_is_refused(said, tmp_path):
    with resume.lock_of(tmp_path / "out"):
        for name, more in (("train", ["--resume"]), ("train", ["--overwrite"]), ("adapt", ["--resume"])):
            line = said(name, *more)
            assert line.startswith(f"{tmp_path / 'out'}: another jirgee (process "), line


def test_of_several_that_want_a_base_at_once_one_builds_it(monkeypatch, tmp_path):
    built, start = [], threading.Barrier(4)

    def build(out):
        built.append(out)
        time.sleep(0.2)
        out.mkdir()  # fails where another has built it

    def resolve() -> object:
        start.wait()
        return bases.resolve("own")

    monkeypatch.setenv("JIRGEE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(bases.BASES, "own", bases.Base("for this test", build))
    half = tmp_path / "cache" / "bases" / f".own-{bases.e5small.SHA256[:12]}.1.tmp"
    half.mkdir(parents=True)  # of a process that was killed while it wrote
    with ThreadPoolExecutor(4) as pool:
        found = {result.result() for result in [pool.submit(resolve) for _ in range(4)]}
    assert list(found) == built
    assert list(half.parent.iterdir()) == built
