"""Continued masked-language-model training: what is masked, what is learned, what a killed run keeps."""

import json
import shlex
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForMaskedLM, BertModel

from jirgee.checkpoint import read_settings
from jirgee.cli import main
from jirgee.errors import InputError, MachineError
from jirgee.tokens import TokenizerSpec
from jirgee_train import adapt as adapting
from jirgee_train.adapt import adapt
from jirgee_train.budget import Budget, memory_advice, warmed
from jirgee_train.cli_adapt import Adaptation
from jirgee_train.masked import IGNORED, load_masked_lm, mask_tokens, open_head, special_rows
from jirgee_train.model import load_classifier, save_checkpoint
from jirgee_train.unlabelled import read_texts

SPEC = TokenizerSpec("sentencepiece", "x.model", unk_id=0, pad_id=3, prefix=(4,), suffix=(5,), mask_id=6)
CHOICES = {"batch_size": 16, "learning_rate": 3e-3, "max_tokens": 32, "seed": 7}
FLAGS = ["--batch-size", "16", "--learning-rate", "3e-3", "--max-tokens", "32", "--quiet"]


@pytest.fixture(scope="module")
def headless_base(tmp_path_factory, original_base):
    """The tiny base as a plain BertModel without pooler and masked-LM head, in Hugging Face's layout."""
    out = tmp_path_factory.mktemp("headless") / "base"
    out.mkdir()
    classifier = load_classifier(original_base, ["a", "b"])
    save_checkpoint(classifier, original_base, read_settings(original_base), out)
    bare = BertModel(classifier.config, add_pooling_layer=False)
    bare.load_state_dict(classifier.base_model.state_dict(), strict=False)
    bare.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, original_base, samples):
    """``jirgee adapt`` of the base in the layout of mn-tweet-bert, six passes over the sample tweets."""
    out = tmp_path_factory.mktemp("adapted") / "new" / "base"
    command = ["adapt", str(samples / "train.tsv"), "-o", str(out), "--base", str(original_base), "--epochs", "6"]
    assert main([*command, *FLAGS]) == 0
    return out


def test_masking_follows_bert():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 500, 200_000).astype(np.int32)
    inputs, labels = mask_tokens(ids, SPEC, 500, 0.15, rng)
    asked = labels != IGNORED
    special = np.isin(ids, special_rows(SPEC))
    assert special.any()
    assert not (asked & special).any()
    assert np.array_equal(inputs[~asked], ids[~asked])
    assert np.array_equal(labels[asked], ids[asked])
    assert asked[~special].mean() == pytest.approx(0.15, abs=0.005)
    masked, same = inputs[asked] == SPEC.mask_id, inputs[asked] == ids[asked]
    assert masked.mean() == pytest.approx(0.8, abs=0.01)
    assert same.mean() == pytest.approx(0.1, abs=0.01)
    random = inputs[asked][~masked & ~same]
    assert not np.isin(random, special_rows(SPEC)).any()
    assert len(np.unique(random)) > 400


def test_a_short_text_is_masked_too():
    ids = np.array([[4, 77, 5], [4, 0, 5]], dtype=np.int32)
    for seed in range(20):
        _, labels = mask_tokens(ids, SPEC, 100, 0.01, np.random.default_rng(seed))
        assert labels[0].tolist() == [IGNORED, 77, IGNORED]
    _, labels = mask_tokens(ids[1:], SPEC, 100, 0.5, np.random.default_rng(0))
    assert (labels == IGNORED).all(), "an unknown piece is not guessed"


def test_a_head_of_the_base_is_taken_and_a_missing_one_is_opened(original_base, headless_base):
    model, new, pooler = load_masked_lm(original_base)
    assert not new
    found = torch.load(original_base / "pytorch_model.bin", weights_only=True)
    own, head = model.state_dict(), "cls.predictions.transform"
    assert torch.equal(own[f"{head}.dense.weight"], found[f"{head}.dense.weight"])
    assert torch.equal(own[f"{head}.LayerNorm.weight"], found[f"{head}.LayerNorm.gamma"])
    assert torch.equal(pooler["bert.pooler.dense.weight"], found["bert.pooler.dense.weight"])

    model, new, _ = load_masked_lm(headless_base)
    assert new
    frequency = np.arange(600)
    open_head(model, frequency)
    tied = model.get_output_embeddings(), model.get_input_embeddings()
    assert tied[0] is not None
    assert tied[0].weight is tied[1].weight
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.arange(40)[None]).logits[0]
    expected = np.log((frequency + 0.1) / (frequency + 0.1).sum())
    assert np.abs(logits.log_softmax(dim=1).numpy() - expected).mean() < 0.5


def test_the_held_out_loss_falls_and_is_reported(adapted):
    results = json.loads((adapted / "adapt_results.json").read_text(encoding="utf-8"))
    assert results["before"]["loss"] > results["after"]["loss"] + 0.3
    assert results["after"]["accuracy"] > results["before"]["accuracy"]
    assert results["steps"] == 6 * -(-results["texts"] // 16)
    assert results["new_head"] is False
    assert list(adapted.parent.iterdir()) == [adapted], "neither work nor staging is left"


def test_the_output_is_an_ordinary_base(adapted, original_base, samples, tmp_path):
    tensors = load_file(adapted / "model.safetensors")
    before = torch.load(original_base / "pytorch_model.bin", weights_only=True)
    assert torch.equal(tensors["bert.pooler.dense.weight"], before["bert.pooler.dense.weight"])
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(tensors[query], before[query])
    head = BertForMaskedLM.from_pretrained(adapted).cls.predictions
    assert torch.equal(head.transform.dense.weight, tensors["cls.predictions.transform.dense.weight"])
    model = load_classifier(adapted, ["a", "b"])
    assert torch.equal(model.state_dict()[query], tensors[query])
    assert torch.equal(model.state_dict()["bert.pooler.dense.weight"], before["bert.pooler.dense.weight"])

    flags = ["--base", str(adapted), "--epochs", "0.1", "--max-tokens", "16", "--quiet"]
    assert main(["train", str(samples), "-o", str(tmp_path / "checkpoint"), *flags]) == 0


def test_a_base_without_head_learns_more_than_frequencies(headless_base, tmp_path, sample_texts):
    texts, said = [f"{text} {i}" for i in range(100) for text in sample_texts[:4]], []
    choices = Adaptation(base=str(headless_base), epochs=4, **CHOICES)
    result = adapt(texts, choices, tmp_path / "base", tmp_path / "base.work", False, said.append)
    assert said[0].startswith("the base has no masked-LM head")
    assert result["after"]["loss"] < result["before"]["loss"] - 0.5
    assert result["before"]["loss"] < np.log(600), "it starts better than blind"
    _, new, _ = load_masked_lm(tmp_path / "base")
    assert not new, "the next run goes on with this head"


def test_an_interrupted_run_goes_on_where_it_was(monkeypatch, original_base, tmp_path, samples):
    """Killed twice, at different steps, it ends with the very weights of the run that nobody touched."""
    texts, _ = read_texts([samples / "train.tsv"])
    choices = Adaptation(base=str(original_base), epochs=2, **CHOICES)
    whole = adapt(texts, choices, tmp_path / "whole", tmp_path / "whole.work", False)

    monkeypatch.setattr(adapting, "SAVE_SECONDS", 0.0)
    one_step, left = adapting._Run._one_step, [0]

    def dying_step(self, rows, share):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return one_step(self, rows, share)

    monkeypatch.setattr(adapting._Run, "_one_step", dying_step)
    for left[0] in (10, 31):
        with pytest.raises(KeyboardInterrupt):
            adapt(texts, choices, tmp_path / "base", tmp_path / "work", True)
        assert not (tmp_path / "base").exists()
    said = []
    result = adapt(texts, choices, tmp_path / "base", tmp_path / "work", True, said.append)
    assert said[0].startswith("resumed at step 39")
    assert not (tmp_path / "work").exists()
    assert {**result, "seconds": 0} == {**whole, "seconds": 0}
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "base"))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_the_clock_ends_a_run(original_base, tmp_path, samples):
    texts, _ = read_texts([samples / "train.tsv"])
    choices = Adaptation(base=str(original_base), epochs=10_000, minutes=0.03, **CHOICES)
    result = adapt(texts, choices, tmp_path / "base", tmp_path / "work", False)
    assert 1.7 < result["seconds"] < 10
    assert result["steps"] > 1


def test_budget_and_learning_rate():
    now = [0.0]
    budget = Budget(steps=100, minutes=1, spent=15, clock=lambda: now[0])
    assert budget.share(0) == 0.25
    assert budget.share(60) == 0.6
    now[0] = 30.0
    assert budget.share(60) == 0.75
    now[0] = 500.0
    assert budget.share(60) == 1
    assert Budget(steps=10, clock=lambda: now[0]).share(5) == 0.5
    rates = [warmed(share, 0.1) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.5, 0.0])
    assert warmed(0.0, 0.0) == 1


def test_running_out_of_memory_names_the_flag():
    with (
        pytest.raises(MachineError, match="out of memory while training; lower --batch-size"),
        memory_advice("lower --batch-size"),
    ):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("lower --batch-size"):
        raise RuntimeError("shapes differ")


def test_texts_are_read_from_any_file_once(tmp_path):
    import gzip

    plain, table = tmp_path / "a.txt.gz", tmp_path / "b.csv"
    plain.write_bytes(gzip.compress("Сайн уу\n\n...\nRT @bat: сайн  уу!\nдэв\n".encode() + b"\xff\n"))
    table.write_text("id,tweet\n1,сайн байна\n2,ДЭВ\n", encoding="utf-8")
    texts, left_out = read_texts([plain], without=["Дэв"])
    assert texts == ["Сайн уу"]
    assert left_out == {"unreadable": 1, "empty": 2, "repeated": 1, "held out": 1}
    assert read_texts([table], "tweet")[0] == ["сайн байна", "ДЭВ"]
    with pytest.raises(InputError, match=r"b.csv:2: no \"text\" column"):
        read_texts([table])


def refused(capsys, tmp_path, *arguments):
    before = sorted(tmp_path.rglob("*"))
    assert main(["adapt", *map(str, arguments), "-o", str(tmp_path / "base"), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before
    return err.removeprefix("jirgee: ").rstrip("\n")


def test_every_failure_costs_one_line(capsys, tmp_path, samples, original_base):
    blank = tmp_path / "blank.txt"
    blank.write_text("\n...\n")
    assert refused(capsys, tmp_path, blank).startswith(f"{blank}: no texts to learn from are left")
    assert "No such file" in refused(capsys, tmp_path, tmp_path / "no.txt")
    tweets = samples / "train.tsv"
    assert "no base 'e5-smal'" in refused(capsys, tmp_path, tweets, "--base", "e5-smal")
    message = refused(capsys, tmp_path, tweets, "--base", original_base, "--max-tokens", "65")
    assert message.startswith("--max-tokens 65 is more than the 64 positions of ")
    assert "--share 1.5 is out of its range" in refused(capsys, tmp_path, tweets, "--share", "1.5")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine").write_text("")
    assert "exists already; pass --overwrite" in refused(capsys, tmp_path, tweets)


def test_an_interrupted_run_is_not_lost_by_mistake(monkeypatch, capsys, tmp_path, samples, original_base):
    monkeypatch.setattr(adapting, "SAVE_SECONDS", 0.0)
    one_step = adapting._Run._one_step

    def dying_step(self, rows, share):
        if self.step == 3:
            raise KeyboardInterrupt
        return one_step(self, rows, share)

    monkeypatch.setattr(adapting._Run, "_one_step", dying_step)
    command = [str(samples / "train.tsv"), "--base", str(original_base), *FLAGS]
    assert main(["adapt", *command, "-o", str(tmp_path / "base")]) == 130
    line = shlex.join(["jirgee", "adapt", *command, "-o", str(tmp_path / "base"), "--resume"])
    said = f"jirgee: interrupted; its state is in {tmp_path / 'base.work'}. To go on: {line}"
    assert capsys.readouterr().err.splitlines()[-1] == said
    monkeypatch.undo()
    work = tmp_path / "base.work"
    assert refused(capsys, tmp_path, *command).startswith(f"{work}: holds an interrupted run; go on with --resume")
    other = refused(capsys, tmp_path, *command, "--resume", "--seed", "8")
    assert other.startswith(f"{work / 'state.pt'}: was begun with other texts, another base or other choices")
    shutil.copytree(work, tmp_path / "copy")
    (work / "state.pt").write_bytes((work / "state.pt").read_bytes()[:1000])
    assert "state.pt: is damaged" in refused(capsys, tmp_path, *command, "--resume")
    shutil.copy(tmp_path / "copy" / "state.pt", work / "state.pt")
    assert main(["adapt", *command, "-o", str(tmp_path / "base"), "--resume"]) == 0
    assert not work.exists()
