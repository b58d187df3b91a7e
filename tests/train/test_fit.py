"""The training loop learns, repeats itself, stops early, and says what it did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from jirgee.checkpoint import Settings, read_settings
from jirgee.errors import MachineError
from jirgee.labelled import Labelled
from jirgee_train.calibrate import Mix
from jirgee_train.data import Dataset, read_dataset
from jirgee_train.fit import Fitted, fit
from jirgee_train.model import load_classifier
from jirgee_train.recipe import Recipe
from jirgee_train.report import eval_results, judge, write_results


@pytest.fixture(scope="module")
def few(samples):
    """32 rows to train on, 16 to judge by."""
    data = read_dataset([samples], 0.2, 1)
    return Dataset(data.train.take(range(32)), data.dev.take(range(16)), data.classes)


def run(base, data, work, quiet=True, **choices) -> Fitted:
    recipe = replace(Recipe(epochs=1, batch_size=8, max_tokens=24), **choices)
    transformers.set_seed(recipe.seed)
    model = load_classifier(base, data.classes)
    settings = Settings(read_settings(base).tokenizer, recipe.max_tokens)
    return fit(model, data, settings, recipe, base, work, quiet)


def test_training_learns(trained):
    losses = [entry["loss"] for entry in trained.results["history"] if "loss" in entry]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.1
    assert trained.results["accuracy"] > 0.7, "half of the dev rows are of each class"


def test_the_figures_are_those_of_the_saved_weights(trained, samples):
    from jirgee_train.fit import predict

    data = read_dataset([samples], 0.2, 1)
    model, settings = load_classifier(trained.out, data.classes), read_settings(trained.out)
    logits = predict(model, settings, trained.out, data.dev.texts)
    gold = data.dev.indices(data.classes)
    assert (logits.argmax(axis=1) == gold).mean() == pytest.approx(trained.results["accuracy"])
    log_probs = torch.from_numpy(logits).log_softmax(dim=1).numpy()
    assert -log_probs[np.arange(len(gold)), gold].mean() == pytest.approx(trained.results["eval_loss"], abs=1e-4)


def test_results_are_written_as_mn_tweet_bert_wrote_them(trained):
    results = trained.results
    second = results["per_class"]["commentator"]
    assert results["acc"] == results["accuracy"]
    assert results["f1"] == second["f1"]
    assert results["acc_and_f1"] == pytest.approx((results["acc"] + results["f1"]) / 2)
    assert results["global_step"] == 10 * -(-540 // 16)
    assert (results["train_rows"], results["dev_rows"]) == (540, 180)
    lines = (trained.out / "eval_results.txt").read_text().splitlines()
    assert [line.split(" = ")[0] for line in lines] == ["acc", "acc_and_f1", "eval_loss", "f1", "global_step", "loss"]
    assert all(float(line.split(" = ")[1]) == results[line.split(" = ")[0]] for line in lines)


def test_three_classes_have_no_figures_of_two(tmp_path):
    texts = [f"{word} {i}" for i in range(4) for word in ("үнэ", "өвөл", "морь")]
    rows = Labelled(texts, ["a", "b", "c"] * 4, [(Path("rows.tsv"), i + 2) for i in range(12)])
    fitted = Fitted(None, np.eye(3, dtype=np.float32)[[0, 1, 2] * 4] * 3, 7, 0.5, 1.0, [])  # type: ignore[arg-type]
    data = Dataset(rows, rows, ["a", "b", "c"])
    results = eval_results(fitted, judge(fitted.dev_logits, None, data, 1), Mix(), data)
    assert (results["accuracy"], results["global_step"], results["loss"]) == (1.0, 7, 0.5)
    assert not {"acc", "f1", "acc_and_f1"} & results.keys()
    write_results(results, tmp_path)
    lines = (tmp_path / "eval_results.txt").read_text().splitlines()
    assert [line.split(" = ")[0] for line in lines] == ["eval_loss", "global_step", "loss"]


def test_the_same_seed_gives_the_same_weights(original_base, few, tmp_path):
    first, second, other = (
        run(original_base, few, tmp_path / str(i), seed=seed).model.state_dict() for i, seed in enumerate((5, 5, 6))
    )
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    assert not all(torch.equal(first[name], tensor) for name, tensor in other.items())


def epochs_run(fitted):
    return sum("eval_loss" in entry for entry in fitted.history)


def test_training_stops_when_patience_is_at_an_end(original_base, few, tmp_path):
    stuck = {"epochs": 5, "learning_rate": 1e-12}
    assert epochs_run(run(original_base, few, tmp_path / "a", patience=2, **stuck)) == 3
    assert epochs_run(run(original_base, few, tmp_path / "b", patience=0, **stuck)) == 5


def test_accumulated_batches_are_one_step(original_base, few, tmp_path):
    assert run(original_base, few, tmp_path, accumulate=2).global_step == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_names_the_flags_to_lower(monkeypatch, original_base, few, tmp_path, error):
    def train(self, **rest):
        raise error

    monkeypatch.setattr(transformers.Trainer, "train", train)
    with pytest.raises(MachineError, match=r"lower --batch-size \(now 8; .* or --max-tokens \(now 24\)"):
        run(original_base, few, tmp_path)


def test_another_runtime_error_stays_itself(monkeypatch, original_base, few, tmp_path):
    def train(self, **rest):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(transformers.Trainer, "train", train)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(original_base, few, tmp_path)


def test_nothing_of_training_goes_to_standard_output(original_base, few, tmp_path, capsys):
    run(original_base, few, tmp_path / "quiet")
    assert capsys.readouterr().out == ""
    run(original_base, few, tmp_path / "loud", quiet=False)
    assert capsys.readouterr().out == ""
