"""The whole stage: what a bundle holds, which recipe ``auto`` takes, and what is refused before anything is written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from jirgee.bundle import Bundle
from jirgee.check import check
from jirgee.cli import main
from jirgee.errors import GateError, InputError
from jirgee.golden import Golden
from jirgee.labelled import read_labelled
from jirgee_export.build import build
from jirgee_export.quantise import RECIPES
from jirgee_export.verify import Limits

from .conftest import not_a_number

LENIENT = Limits(max_drop=100, max_flips=100)


def test_a_bundle_holds_report_card_labels_and_where_it_came_from(tmp_path, tiny_checkpoint, samples):
    dev = samples / "dev.tsv"
    built = build(tiny_checkpoint, tmp_path / "bundle", recipe="int8", data=dev, limits=LENIENT)
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle == built.bundle
    assert bundle.labels == ("comedian", "commentator")
    assert (bundle.recipe, bundle.max_tokens, bundle.inputs) == ("int8", 48, ("input_ids", "attention_mask"))
    assert set(bundle.files) == {"model.onnx", "spiece.model", "golden.json", "report.json", "README.md"}
    assert bundle.verified_on["onnxruntime"] == bundle.provenance["versions"]["onnxruntime"]
    assert bundle.provenance["data"] == "dev.tsv"
    assert {"torch", "onnx", "onnxruntime"} <= bundle.provenance["versions"].keys()
    report = json.loads(bundle.read("report.json"))
    assert report["gate"] == {"limits": vars(LENIENT), "data": "dev.tsv", "passed": True}
    assert report["recipes"].keys() == {"int8"}
    assert report["recipes"]["int8"]["texts"] == 180
    assert bundle.tolerance >= report["recipes"]["int8"]["batch_effect"]
    card = bundle.read("README.md").decode()
    assert "# comedian, commentator" in card
    assert "180 held-out texts of dev.tsv" in card
    before, after = report["recipes"]["int8"]["accuracy"]
    assert f"accuracy: {before:.4f} -> {after:.4f}" in card


def test_held_out_texts_are_golden_only_where_the_user_says_so(tmp_path, tiny_checkpoint, samples):
    dev = samples / "dev.tsv"
    texts = set(read_labelled(dev).texts)
    for name, allowed in (("public", True), ("private", False)):
        built = build(tiny_checkpoint, tmp_path / name, "fp32", dev, LENIENT, golden_from_data=allowed)
        golden = Golden.read(built.bundle)
        assert golden
        assert len(set(golden.texts)) == 32
        assert golden.source == ("held-out texts" if allowed else "random pieces")
        assert bool(texts & set(golden.texts)) == allowed
        found = check(tmp_path / name)
        assert found["passed"], found["problems"]
        assert found["golden"]["identical"] == 32


def test_golden_texts_from_data_need_data(capsys, tmp_path, tiny_checkpoint):
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle"), "--golden-from-data"])
    assert stopped.value.code == 2
    assert "--golden-from-data needs --data" in capsys.readouterr().err


def test_auto_takes_the_first_row_that_passes(monkeypatch, tmp_path, tiny_checkpoint):
    first, second, *_ = RECIPES
    assert build(tiny_checkpoint, tmp_path / "first", limits=LENIENT).bundle.recipe == first
    monkeypatch.setitem(RECIPES, first, replace(RECIPES[first], apply=not_a_number(RECIPES[first].apply)))
    built = build(tiny_checkpoint, tmp_path / "second", limits=LENIENT)
    assert built.bundle.recipe == second
    assert list(built.tried) == [first, second]
    assert built.tried[first][1] == ["it gives scores that are not finite numbers"]
    assert not built.tried[second][1]


def test_a_graph_that_is_not_the_checkpoint_is_refused(monkeypatch, tmp_path, tiny_checkpoint):
    monkeypatch.setitem(RECIPES, "fp32", replace(RECIPES["fp32"], apply=RECIPES["int8"].apply))
    with pytest.raises(GateError, match=r"the exported fp32 graph differs from the checkpoint by .* nothing was"):
        build(tiny_checkpoint, tmp_path / "bundle", recipe="fp32")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_label_in_the_data_names_its_line(capsys, tmp_path, tiny_checkpoint):
    data = tmp_path / "dev.tsv"
    data.write_text("text\tlabel\nнэг\tcomedian\nхоёр\tpoet\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        build(tiny_checkpoint, tmp_path / "bundle", data=data)
    assert str(caught.value).startswith(f"{data}:3: unknown label 'poet'; the model's are 'comedian', 'commentator'")
    assert main(["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle"), "--data", str(data), "--quiet"]) == 1
    assert capsys.readouterr().err == f"jirgee: {caught.value}\n"
    assert list(tmp_path.iterdir()) == [data]


def test_the_command_line_refuses_in_one_line_and_leaves_nothing(capsys, tmp_path, tiny_checkpoint):
    base = tmp_path / "base"
    sizes: dict[str, Any] = {"vocab_size": 600, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(**sizes, intermediate_size=8)).save_pretrained(base)
    for name in ("spiece.model", "tokenizer_config.json"):
        (base / name).write_bytes((tiny_checkpoint / name).read_bytes())
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for checkpoint, out, words in (
        (base, "out", f"train it first: jirgee train DATA --base {base} -o CHECKPOINT"),
        (tmp_path / "nowhere", "out", "no such file or directory"),
        (tiny_checkpoint, "taken", "exists already; pass --overwrite to replace it"),
    ):
        assert main(["export", str(checkpoint), "-o", str(tmp_path / out), "--quiet"]) == 1
        printed, said = capsys.readouterr()
        assert printed == ""
        assert said.count("\n") == 1
        assert words in said
        assert sorted(tmp_path.rglob("*")) == before


def test_mn_tweet_bert_s_layout_trains_exports_and_scores_from_the_command_line(
    capsys, tmp_path, original_base, samples
):
    checkpoint, packed, scored = (str(tmp_path / name) for name in ("checkpoint", "tiny.jirgee", "scored.jsonl"))
    flags = ["--epochs", "1", "--batch-size", "32", "--max-tokens", "24", "--quiet"]
    assert main(["train", str(samples), "-o", checkpoint, "--base", str(original_base), *flags]) == 0
    dev = str(samples / "dev.tsv")
    assert main(["export", checkpoint, "-o", packed, "--recipe", "fp32", "--data", dev, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{packed}: fp32, ")
    assert main(["score", packed, dev, "-o", scored, "--quiet"]) == 0
    rows = [json.loads(line) for line in Path(scored).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 180
    assert all(row["predicted_probs"].keys() == {"comedian", "commentator"} for row in rows)
    assert all(abs(sum(row["predicted_probs"].values()) - 1) < 1e-5 for row in rows)
