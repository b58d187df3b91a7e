"""A student learns what its teacher says, costs fewer operations, and is an ordinary checkpoint."""

import json
import shutil

import numpy as np
import pytest
import torch

from jirgee.bundle import NGRAMS
from jirgee.checkpoint import Settings, read_labels, read_settings
from jirgee.cli import main
from jirgee_train.batches import grouped_batches, predict
from jirgee_train.calibrate import mixed
from jirgee_train.cli_distill import Distillation
from jirgee_train.data import read_dataset
from jirgee_train.distill import _Lessons, lesson_loss, relative_distance
from jirgee_train.model import load_classifier, save_checkpoint
from jirgee_train.nearest import nearest
from jirgee_train.ngrams import fit_ngrams
from jirgee_train.recipe import read_recipe
from jirgee_train.teacher import Teacher, make_student, matched_states, operations, start_layers

from .conftest import write_tsv

CLASSES = ["comedian", "commentator"]


@pytest.fixture(scope="module")
def texts_file(tmp_path_factory, sample_texts):
    path = tmp_path_factory.mktemp("texts") / "unlabelled.txt"
    path.write_text("\n".join(sample_texts) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory, trained, samples, texts_file):
    """``jirgee distill`` of the tiny trained checkpoint into one layer; the directory."""
    out = tmp_path_factory.mktemp("student") / "checkpoint"
    flags = ["--layers", "1", "--epochs", "6", "--batch-size", "8", "--learning-rate", "3e-3", "--quiet"]
    command = ["distill", str(trained.out), "-o", str(out), "--texts", str(texts_file), "--data", str(samples)]
    assert main([*command, *flags]) == 0
    return out


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory, trained, samples):
    """The trained checkpoint with the n-grams of a hybrid."""
    out = tmp_path_factory.mktemp("hybrid") / "checkpoint"
    out.mkdir()
    settings = read_settings(trained.out)
    settings = Settings(settings.tokenizer, settings.max_tokens, temperature=2.0, ngram_weight=3.0)
    save_checkpoint(load_classifier(trained.out, CLASSES), trained.out, settings, out)
    rows = read_dataset([samples], 0.2, 1).train
    (out / NGRAMS).write_bytes(fit_ngrams(rows.texts, rows.indices(CLASSES), 2, 10).to_bytes())
    return out


def test_the_student_agrees_with_its_teacher_and_costs_less(student, trained):
    results = json.loads((student / "eval_results.json").read_text(encoding="utf-8"))
    assert results["agreement"] > 0.85
    assert results["student"]["accuracy"] > results["teacher"]["accuracy"] - 0.1
    assert results["operations_ratio"] == pytest.approx(2.0)
    assert results["layers"] == [2, 1]
    losses = [entry["loss"] for entry in results["history"]]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]
    assert results["teacher"]["accuracy"] == pytest.approx(trained.results["encoder"]["accuracy"], abs=1e-9)


def test_the_student_is_an_ordinary_checkpoint(student, samples):
    assert read_labels(student) == CLASSES
    names = {path.name for path in student.iterdir()}
    assert names >= {"config.json", "model.safetensors", "jirgee.json", "eval_results.txt", "distill.toml"}
    assert "layers = 1\n" in (student / "distill.toml").read_text()
    assert NGRAMS not in names
    results = json.loads((student / "eval_results.json").read_text(encoding="utf-8"))
    settings = read_settings(student)
    assert settings.temperature == results["temperature"] != 1.0
    dev = read_dataset([samples], 0.2, 1).dev
    logits = predict(load_classifier(student, CLASSES), settings, student, dev.texts)
    right = (logits.argmax(axis=1) == dev.indices(CLASSES)).mean()
    assert right == pytest.approx(results["student"]["accuracy"]), "the figures are those of the saved weights"
    assert list(student.parent.iterdir()) == [student]


def test_the_best_epoch_is_kept(student):
    results = json.loads((student / "eval_results.json").read_text(encoding="utf-8"))
    assert results["student"]["accuracy"] == pytest.approx(max(entry["right"] for entry in results["history"]))


def test_a_student_can_be_exported(student, tmp_path, texts):
    pytest.importorskip("optimum.exporters.onnx")
    import jirgee

    assert main(["export", str(student), "-o", str(tmp_path / "bundle"), "--recipe", "fp32"]) == 0
    with jirgee.Scorer.load(tmp_path / "bundle") as scorer:
        assert len(set(scorer.score(texts).labels)) == 2


def test_of_a_hybrid_the_mix_is_taught(hybrid, samples, texts):
    teacher = Teacher.load(hybrid, CLASSES)
    data = read_dataset([samples], 0.2, 1)
    lessons = _Lessons(teacher, texts, data, 1)
    rows = np.arange(len(lessons))[-20:]
    wanted, _, _ = lessons.hear(rows, lessons.inputs(rows))
    logits = predict(teacher.model, teacher.settings, hybrid, texts[-20:])
    assert teacher.ngrams
    expected = mixed(logits, teacher.ngrams.logits(texts[-20:]), 2.0, 3.0)
    assert np.allclose(wanted.numpy(), expected, atol=1e-4)
    assert not np.allclose(wanted.numpy(), logits / 2, atol=0.1), "the n-grams have their say"


@pytest.mark.parametrize("ngrams", ["keep", "learn"])
def test_a_hybrid_s_ngrams_stay_beside_the_student_or_go(tmp_path, hybrid, samples, ngrams):
    out = tmp_path / "student"
    words = ["distill", str(hybrid), "-o", str(out), "--data", str(samples), "--layers", "1", "--epochs", "1"]
    assert main([*words, "--ngrams", ngrams, "--quiet"]) == 0
    figures, settings = json.loads((out / "eval_results.json").read_text()), read_settings(out)
    assert (out / NGRAMS).exists() == (ngrams == "keep") == (settings.ngram_weight > 0)
    assert figures["ngram_weight"] == pytest.approx(settings.ngram_weight)
    assert main(["train", "--evaluate", str(out), str(samples), "--json"]) == 0


def test_the_teacher_reads_each_text_once(monkeypatch, trained, texts):
    teacher = Teacher.load(trained.out, CLASSES)
    lessons = _Lessons(teacher, texts, None, 1)
    rows = np.arange(8)
    inputs = lessons.inputs(rows)
    logits, [states], all_tokens = lessons.hear(rows, inputs)
    assert all_tokens
    assert states.shape[:2] == inputs["input_ids"].shape
    monkeypatch.setattr(teacher.model, "forward", None)
    again, [first], all_tokens = lessons.hear(rows[::-1].copy(), lessons.inputs(rows[::-1].copy()))
    assert not all_tokens
    assert torch.equal(again.flip(0), logits)
    assert torch.allclose(first[:, 0].flip(0), states[:, 0], atol=1e-2)


def test_a_copy_of_the_teacher_has_nothing_to_learn(trained, texts):
    """All layers kept, no gold labels: soft labels and hidden states agree from the start, heard anew or remembered."""
    checkpoint = Teacher.load(trained.out, CLASSES)
    plain = Settings(checkpoint.settings.tokenizer, checkpoint.settings.max_tokens)
    teacher = Teacher(checkpoint.directory, checkpoint.model, plain, None)
    lessons = _Lessons(teacher, texts, None, 2)
    copy = make_student(teacher, 2).eval()
    for _ in range(2):
        assert lesson_loss(copy, lessons, np.arange(16), Distillation(layers=2)).item() < 1e-3
    other = make_student(teacher, 1).eval()
    with pytest.raises(ValueError, match="zip"):
        lesson_loss(other, lessons, np.arange(16), Distillation(layers=1))


def test_gold_labels_pull_only_where_there_are_some(trained, samples, texts):
    teacher = Teacher.load(trained.out, CLASSES)
    data = read_dataset([samples], 0.2, 1)
    lessons = _Lessons(teacher, texts, data, 1)
    student = make_student(teacher, 1).eval()
    labelled, bare = np.arange(8), np.arange(len(lessons) - 8, len(lessons))

    def loss(rows, gold):
        return float(lesson_loss(student, lessons, rows, Distillation(layers=1, gold=gold)).detach())

    for rows in (labelled, bare):
        loss(rows, 0)  # from now on the teacher is heard from memory
    assert loss(labelled, 1.0) > loss(labelled, 0)
    assert loss(bare, 1.0) == loss(bare, 0)


def test_layers_are_evenly_spread():
    assert start_layers(12, 3) == [0, 6, 11]
    assert start_layers(12, 4) == [0, 4, 7, 11]
    assert start_layers(4, 4) == [0, 1, 2, 3]
    assert matched_states(12, 3) == [4, 8, 12]
    assert matched_states(4, 4) == [1, 2, 3, 4]
    assert matched_states(12, 1) == [12]


def test_a_student_starts_from_its_teacher(trained):
    teacher = Teacher.load(trained.out, CLASSES)
    student = make_student(teacher, 1)
    own, theirs = student.state_dict(), teacher.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())
    assert not any(".layer.1." in name for name in own)
    assert student.config.id2label == teacher.model.config.id2label
    assert teacher.model.config.num_hidden_layers == 2


def test_operations_follow_layers_and_width(trained):
    teacher = Teacher.load(trained.out, CLASSES)
    config = teacher.model.config
    h, m = config.hidden_size, config.intermediate_size
    assert operations(config, 10) == 2 * 10 * (4 * h * h + 2 * h * m + 20 * h)


def test_relative_distance():
    wanted = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    spread = wanted.var(dim=0, correction=0).mean().item()
    assert relative_distance(wanted, wanted, spread) == 0
    assert relative_distance(wanted.mean(dim=0).expand(200, 5), wanted, spread).item() == pytest.approx(1)


def test_states_are_measured_by_all_tokens_even_when_only_the_first_is_remembered(trained, texts):
    """First tokens of an early layer are nearly equal; by their own variance they would drown everything else."""
    lessons = _Lessons(Teacher.load(trained.out, CLASSES), texts, None, 1)
    batches = [np.arange(20), np.arange(20, 40)]
    found = []
    for rows in batches:
        inputs = lessons.inputs(rows)
        _, [states], _ = lessons.hear(rows, inputs)
        found.append(states[inputs["attention_mask"].bool()].var(dim=0, correction=0).mean().item())
    assert lessons.spread.tolist() == pytest.approx([np.mean(found)], rel=1e-4)
    lessons.hear(batches[0], lessons.inputs(batches[0]))
    assert lessons.spread.tolist() == pytest.approx([np.mean(found)], rel=1e-4), "memory adds nothing"


def test_batches_hold_every_row_once_with_little_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 1003)
    batches = grouped_batches(lengths, 8, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(1003))
    padded = sum(lengths[rows].max() * len(rows) for rows in batches)
    assert padded < 1.1 * lengths.sum()
    firsts = [int(lengths[rows[0]]) for rows in batches]
    assert firsts != sorted(firsts)


def test_nearest_texts_are_of_the_kind_that_is_asked_for(sample_texts):
    cyrillic = [text for text in sample_texts if not text.isascii()][:60]
    latin = [f"the quick brown fox number {i} jumps over the lazy dog" for i in range(60)]
    mixed_up = [text for pair in zip(cyrillic[20:], latin, strict=False) for text in pair]
    kept = nearest(mixed_up, cyrillic[:20], 40, seed=0)
    assert sum(text in cyrillic for text in kept) >= 36
    assert nearest(mixed_up, cyrillic[:20], 10_000, seed=0) == mixed_up


def test_without_labels_agreement_chooses_the_epoch(capsys, tmp_path, trained, texts_file):
    out = tmp_path / "new" / "student"
    flags = ["--texts", str(texts_file), "--layers", "1", "--epochs", "2", "--quiet", "--minutes", "5"]
    assert main(["distill", str(trained.out), "-o", str(out), *flags]) == 0
    printed, said = capsys.readouterr()
    assert said == ""
    assert "held-out texts" in printed
    assert "accuracy" not in printed
    assert read_settings(out).temperature == 1.0
    results = json.loads((out / "eval_results.json").read_text(encoding="utf-8"))
    assert results["agreement"] == pytest.approx(max(entry["right"] for entry in results["history"]))


def test_dev_texts_are_not_learned_from(capsys, tmp_path, trained, samples):
    dev = read_dataset([samples], 0.2, 1).dev
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*(f"{text.upper()} " for text in dev.texts), "шинэ мөр"]), encoding="utf-8")
    flags = ["--layers", "1", "--epochs", "1", "--data", str(samples), "--texts", str(path)]
    assert main(["distill", str(trained.out), "-o", str(tmp_path / "student"), *flags]) == 0
    _, said = capsys.readouterr()
    assert said.startswith(f"texts: 1 (left out: {len(dev)} held out")


def test_without_a_dev_file_the_rows_that_the_teacher_held_out_are_held_out(tmp_path, trained, samples):
    teacher, data = tmp_path / "teacher", tmp_path / "data"
    shutil.copytree(trained.out, teacher)
    recipe = read_recipe(teacher / "recipe.toml", seed=7, dev_share=0.3)
    (teacher / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    data.mkdir()
    shutil.copy(samples / "train.tsv", data)
    out = tmp_path / "student"
    flags = ["--layers", "1", "--epochs", "1", "--quiet"]
    assert main(["distill", str(teacher), "-o", str(out), "--data", str(data), *flags]) == 0
    results = json.loads((out / "eval_results.json").read_text(encoding="utf-8"))
    dev = read_dataset([data], 0.3, 7).dev
    logits = predict(load_classifier(out, CLASSES), read_settings(out), out, dev.texts)
    assert results["dev_rows"] == len(dev)
    assert results["student"]["accuracy"] == pytest.approx((logits.argmax(axis=1) == dev.indices(CLASSES)).mean())


def refused(capsys, tmp_path, teacher, *flags):
    before = sorted(tmp_path.rglob("*"))
    assert main(["distill", str(teacher), "-o", str(tmp_path / "student"), "--quiet", *map(str, flags)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before
    return err.removeprefix("jirgee: ").rstrip("\n")


def test_every_failure_costs_one_line(capsys, tmp_path, trained, original_base, samples, texts_file):
    assert refused(capsys, tmp_path, trained.out).startswith("no texts to learn from; pass --texts FILE")
    message = refused(capsys, tmp_path, trained.out, "--texts", texts_file, "--layers", "3")
    assert message == f"{trained.out}: has 2 layers, fewer than --layers 3"
    message = refused(capsys, tmp_path, original_base, "--texts", texts_file)
    assert message.startswith(f"{original_base}: is not a checkpoint: it has no config.json")
    assert "--temperature 0.0 is out of its range" in refused(capsys, tmp_path, trained.out, "--temperature", "0")
    message = refused(capsys, tmp_path, trained.out, "--texts", texts_file, "--most", "9")
    assert message.endswith("pass these with --data DIR")
    assert "No such file" in refused(capsys, tmp_path, trained.out, "--texts", tmp_path / "no.txt")
    data = write_tsv(tmp_path / "data" / "train.tsv", [("нэг", "a"), ("хоёр", "b"), ("гурав", "a"), ("дөрөв", "b")])
    message = refused(capsys, tmp_path, trained.out, "--data", data.parent)
    assert "unknown label 'b'; the model's are 'comedian', 'commentator'" in message


def test_a_base_is_no_teacher(capsys, tmp_path, trained, texts_file):
    teacher = tmp_path / "base"
    teacher.mkdir()
    config = json.loads((trained.out / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    message = refused(capsys, tmp_path, teacher, "--texts", texts_file)
    assert message.startswith(f"{teacher}: is a base, not a trained classifier")


def test_a_hybrid_without_its_ngrams_is_refused(capsys, tmp_path, hybrid, texts_file):
    teacher = tmp_path / "hybrid"
    shutil.copytree(hybrid, teacher)
    (teacher / NGRAMS).unlink()
    message = refused(capsys, tmp_path, teacher, "--texts", texts_file, "--layers", "1")
    assert message == f"{teacher}: is a hybrid, but its {NGRAMS} is missing; train it again"
