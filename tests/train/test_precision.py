"""Number formats and class weights: what a machine has not is refused, what it has is trained with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from jirgee.checkpoint import read_settings
from jirgee.cli import main
from jirgee.errors import InputError, MachineError
from jirgee_train import fit, precision
from jirgee_train.batches import predict
from jirgee_train.data import read_dataset
from jirgee_train.model import load_classifier
from jirgee_train.recipe import CHOICES, Recipe, read_recipe

from .conftest import write_tsv

ROWS = [(f"морь {i}", "a") for i in range(20)] + [(f"үнэ {i}", "b") for i in range(4)]
FLAGS = ["--epochs", "2", "--batch-size", "4", "--max-tokens", "16", "--learning-rate", "1e-3", "--quiet"]


@pytest.fixture
def train(tmp_path, original_base):
    data = write_tsv(tmp_path / "data" / "rows.tsv", ROWS)

    def run(out: str, *more: str) -> int:
        words = ["train", str(data), "-o", str(tmp_path / out), "--base", str(original_base), *FLAGS, *more]
        return main(words)

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA, which trains in fp16")
def test_fp16_without_cuda_costs_one_line(train, capsys, tmp_path):
    assert train("out", "--precision", "fp16") == 1
    said = capsys.readouterr().err
    assert said == "jirgee: --precision fp16 needs a CUDA device, and PyTorch sees none; pass --precision fp32\n"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_bf16_is_refused_where_neither_cuda_nor_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(MachineError, match=r"no bf16 instructions .*; pass --precision fp32"):
        precision.check_precision("bf16")
    precision.check_precision("fp32")


def test_an_old_graphics_card_is_told_to_take_fp16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(MachineError, match="Tesla T4 has no bf16; pass --precision fp16"):
        precision.check_precision("bf16")
    precision.check_precision("fp16")


@pytest.mark.skipif(not torch.cuda.is_available() and not precision.cpu_has_bf16(), reason="no bf16 here")
def test_bf16_trains_and_the_checkpoint_is_in_fp32(train, tmp_path):
    from safetensors.torch import load_file

    assert train("full") == 0
    assert train("half", "--precision", "bf16") == 0
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    assert any(not torch.equal(full[name], tensor) for name, tensor in half.items()), "it was not trained in bf16"
    assert 'precision = "bf16"' in (tmp_path / "half" / "recipe.toml").read_text()


@pytest.mark.skipif(not torch.cuda.is_available() and not precision.cpu_has_bf16(), reason="no bf16 here")
def test_what_is_judged_after_bf16_training_is_computed_in_fp32(train, tmp_path, capsys):
    assert train("half", "--precision", "bf16") == 0
    results = json.loads((tmp_path / "half" / "eval_results.json").read_text())
    data = read_dataset([tmp_path / "data" / "rows.tsv"], 0.2, 42)
    settings = read_settings(tmp_path / "half")
    model = load_classifier(tmp_path / "half", data.classes)
    logits = torch.from_numpy(predict(model, settings, tmp_path / "half", data.dev.texts))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.dev.indices(data.classes)))
    assert results["eval_loss"] == pytest.approx(loss.item(), abs=1e-6)


def test_balanced_classes_weigh_alike_and_a_row_one_on_average():
    gold = np.array([0] * 9 + [1] * 3)
    loss = fit._balanced_loss(gold, 2)
    logits = torch.zeros(12, 2)
    labels = torch.from_numpy(gold)
    assert loss({"logits": logits}, labels).item() == pytest.approx(np.log(2))
    first, second = (loss({"logits": logits[gold == k]}, labels[gold == k]).item() for k in (0, 1))
    assert 9 * first == pytest.approx(3 * second)
    parts = [loss({"logits": logits[rows]}, labels[rows], 12).item() for rows in (slice(0, 5), slice(5, 12))]
    assert sum(parts) == pytest.approx(np.log(2)), "accumulated batches sum to the whole"


def test_with_balanced_weights_a_text_that_says_nothing_is_anybodys(tmp_path, original_base):
    """All training texts are one; what is left to learn is how frequent the classes are."""
    write_tsv(tmp_path / "data" / "train.tsv", [("морь", "a")] * 400 + [("морь", "b")] * 100)
    write_tsv(tmp_path / "data" / "dev.tsv", [("үнэ өссөн", "a"), ("салхи сэрүүн", "b")])
    probabilities = []
    for choice in CHOICES["class_weights"]:
        words = ["train", str(tmp_path / "data"), "-o", str(tmp_path / choice), "--base", str(original_base), *FLAGS]
        more = ["--epochs", "1", "--batch-size", "10", "--learning-rate", "5e-3", "--class-weights", choice]
        assert main([*words, *more]) == 0
        model = load_classifier(tmp_path / choice, ["a", "b"])
        logits = predict(model, read_settings(tmp_path / choice), tmp_path / choice, ["морь"])
        probabilities.append(torch.from_numpy(logits).softmax(dim=1)[0, 1].item())
    assert probabilities == [pytest.approx(0.2, abs=0.1), pytest.approx(0.5, abs=0.1)]


@pytest.mark.parametrize(("name", "choices"), CHOICES.items())
def test_a_choice_that_there_is_not_is_refused(name, choices, tmp_path, capsys):
    assert getattr(Recipe(), name) == choices[0]
    with pytest.raises(InputError, match=f"{name} = 'mine' is none of {', '.join(choices)}"):
        read_recipe(None, **{name: "mine"})
    with pytest.raises(SystemExit) as caught:
        main(["train", "rows.tsv", "-o", "out", f"--{name.replace('_', '-')}", "mine"])
    assert caught.value.code == 2
    assert "invalid choice: 'mine'" in capsys.readouterr().err


def test_tensorboard_that_is_not_installed_costs_one_line(train, monkeypatch, capsys, tmp_path):
    import jirgee.errors

    def absent(module: str):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(jirgee.errors, "import_module", absent)
    assert train("out", "--logdir", str(tmp_path / "logs")) == 1
    line = "jirgee: --logdir needs tensorboard, which is not installed; run: pip install 'tensorboard'\n"
    assert capsys.readouterr().err == line
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_logs_for_tensorboard(train, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert train("out", "--logdir", str(tmp_path / "logs")) == 0
    log = accumulators.EventAccumulator(str(tmp_path / "logs")).Reload()
    assert {"train/loss", "train/learning_rate", "eval/accuracy"} <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Scalars("eval/accuracy")] == [5, 10]


def test_mean_loss_weighs_an_entry_by_its_steps():
    log = [{"loss": 3.0, "step": 1}, {"eval_loss": 9.0, "step": 1}, {"loss": 1.0, "step": 4}]
    assert fit.mean_loss(log) == pytest.approx(1.5)
    assert fit.mean_loss(log, after=1) == 1.0
    assert np.isnan(fit.mean_loss([]))


@pytest.mark.parametrize(
    ("asked", "device", "on"), [("auto", "cpu", False), ("fp32", "cpu", False), ("auto", "cuda", True)]
)
def test_autocast_by_precision_and_device(asked, device, on):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no CUDA here, and switches it off
        context = precision.autocast(asked, torch.device(device))
    assert context._enabled is (on and torch.cuda.is_available() if device == "cuda" else on)


def test_autocast_in_bf16_where_the_processor_has_it():
    if not precision.cpu_has_bf16():
        with pytest.raises(MachineError, match="--precision fp32"):
            precision.autocast("bf16", torch.device("cpu"))
        return
    with precision.autocast("bf16", torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.bfloat16
