"""``jirgee train --evaluate``: a checkpoint's figures without training, those of ``jirgee eval`` on its bundle."""

from __future__ import annotations

import json

import pytest

from jirgee.cli import main

from .conftest import write_tsv


def test_the_figures_are_those_of_the_bundle(tiny_checkpoint, tiny_bundle, samples, capsys):
    dev = str(samples / "dev.tsv")
    assert main(["train", dev, "--evaluate", str(tiny_checkpoint), "--json"]) == 0
    checkpoint = json.loads(capsys.readouterr().out)
    assert main(["eval", str(tiny_bundle), dev, "--json"]) == 0
    bundle = json.loads(capsys.readouterr().out)
    assert checkpoint.keys() == bundle.keys()
    assert checkpoint["n"] == 180
    for name in ("accuracy", "macro_f1", "ece", "loss"):
        assert checkpoint[name] == pytest.approx(bundle[name], abs=1e-3)
    assert checkpoint["confusion"] == bundle["confusion"]


def test_people_see_the_table_of_jirgee_eval(tiny_checkpoint, tiny_bundle, samples, capsys):
    assert main(["train", str(samples), "--evaluate", str(tiny_checkpoint)]) == 0
    one = capsys.readouterr().out.splitlines()
    assert main(["eval", str(tiny_bundle), str(samples / "dev.tsv")]) == 0
    assert one[1:] == capsys.readouterr().out.splitlines()[1:]
    assert one[0].startswith("180 rows: accuracy ")


def test_a_hybrid_is_judged_with_its_ngrams(samples, original_base, tmp_path, capsys):
    out = tmp_path / "hybrid"
    flags = ["--base", str(original_base), "--max-tokens", "16", "--epochs", "0.1", "--ngrams", "10", "--quiet"]
    assert main(["train", str(samples), "-o", str(out), *flags]) == 0
    capsys.readouterr()
    assert main(["train", str(samples), "--evaluate", str(out), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["accuracy"] > 0.7, "the encoder alone knows nothing yet"
    (out / "ngrams.npz").unlink()
    assert main(["train", str(samples), "--evaluate", str(out)]) == 1
    assert f"jirgee: {out}: has no ngrams.npz" in capsys.readouterr().err


def test_bad_input_costs_one_line(tiny_checkpoint, original_base, samples, tmp_path, capsys):
    other = write_tsv(tmp_path / "other.tsv", [("текст", "politician")])
    cases = [
        (samples, original_base, "is not a checkpoint with labels; make one with: jirgee train"),
        (samples, tmp_path / "nowhere", "is not a checkpoint with labels"),
        (other, tiny_checkpoint, f"{other}:2: unknown label 'politician'; the model's are 'comedian', 'commentator'"),
        (tmp_path, tiny_checkpoint, "holds no dev.tsv"),
    ]
    for data, checkpoint, words in cases:
        assert main(["train", str(data), "--evaluate", str(checkpoint)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert words in err


def test_either_an_output_or_a_checkpoint_to_judge(capsys):
    for words in ([], ["-o", "out", "--evaluate", "checkpoint"]):
        with pytest.raises(SystemExit) as caught:
            main(["train", "rows.tsv", *words])
        assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
