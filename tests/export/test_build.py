"""The whole stage: what a bundle holds, which recipe ``auto`` takes, and what is refused before anything is written."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from jirgee.bundle import Bundle
from jirgee.check import check
from jirgee.cli import main
from jirgee.errors import GateError, InputError
from jirgee.golden import Golden
from jirgee.labelled import read_labelled
from jirgee_export.build import build, candidates, choose
from jirgee_export.measure import Speed
from jirgee_export.quantise import RECIPES
from jirgee_export.trial import Trial
from jirgee_export.verify import Comparison, Limits

from .conftest import not_a_number

LENIENT = Limits(max_drop=100, max_flips=100)


def test_a_bundle_holds_report_card_labels_and_where_it_came_from(tmp_path, tiny_checkpoint, samples):
    dev = samples / "dev.tsv"
    built = build(tiny_checkpoint, tmp_path / "bundle", recipe="int8", data=dev, limits=LENIENT)
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle == built.bundle
    assert bundle.labels == ("comedian", "commentator")
    assert (bundle.recipe, bundle.max_tokens, bundle.inputs) == ("int8", 48, ("input_ids", "attention_mask"))
    assert set(bundle.files) == {"model.onnx", "spiece.model", "golden.json", "report.json", "report.html", "README.md"}
    assert bundle.verified_on["onnxruntime"] == bundle.provenance["versions"]["onnxruntime"]
    assert bundle.provenance["data"] == "dev.tsv"
    assert {"torch", "onnx", "onnxruntime"} <= bundle.provenance["versions"].keys()
    report = json.loads(bundle.read("report.json"))
    assert report["gate"] == {"limits": vars(LENIENT), "data": "dev.tsv", "passed": True}
    assert report["recipes"].keys() == {"int8"}
    assert report["chosen"] == "int8"
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


def test_auto_measures_every_row_and_writes_the_whole_table(monkeypatch, capsys, tmp_path, tiny_checkpoint, samples):
    broken = replace(RECIPES["int8-static"], apply=not_a_number(RECIPES["int8-static"].apply))
    monkeypatch.setitem(RECIPES, "int8-static", broken)
    words = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle"), "--data", str(samples / "dev.tsv")]
    assert main([*words, "--texts", str(samples / "tweets.csv"), "--max-flips", "100", "--quiet"]) == 0
    bundle = Bundle.load(tmp_path / "bundle")
    report = json.loads(bundle.read("report.json"))
    tried = {name for name, row in RECIPES.items() if row.safe_here() and not row.fallback}
    assert report["recipes"].keys() == tried
    assert report["chosen"] == bundle.recipe != "int8-static"
    assert report["recipes"]["int8-static"]["failures"] == ["it gives scores that are not finite numbers"]
    for name, row in report["recipes"].items():
        if name != "int8-static":
            assert row["speed"].keys() == {"rate", "p50_ms", "rss"}
            assert min(row["speed"].values()) > 0, name
            assert row["effects"].keys() == {"alone", "mates", "wide", "threads"}
            assert row["recall"].keys() == {"comedian", "commentator"}
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:-1]} == tried
    assert [line.split()[0] for line in lines if line.endswith("passed, chosen")] == [bundle.recipe]
    page = bundle.read("report.html").decode()
    assert page.count("<circle") == len(tried) - 1
    assert all(name in page for name in tried)


def trial(recipe: str, rate: float, change: float, failures: tuple[str, ...] = ()) -> Trial:
    bundle: Any = SimpleNamespace(recipe=recipe)
    return Trial(bundle, Comparison(100, 0, change, change), list(failures), Speed(rate, 1.0))


def test_the_fastest_that_passes_is_chosen_and_of_equals_the_most_faithful():
    rows = [trial("a", 200, 0.1, ("flips",)), trial("b", 100, 0.02), trial("c", 98, 0.01), trial("d", 90, 0.001)]
    chosen = choose({row.recipe: row for row in rows})
    assert chosen
    assert chosen.recipe == "c", "within 3 % of the fastest, and nearer to the checkpoint"
    assert choose({"a": rows[0]}) is None


def test_portable_leaves_out_what_some_cpus_cannot_sum(monkeypatch):
    portable = set(candidates("auto", portable=True))
    assert {"int8", "int8-static", "int8-u8", "int4", "fp32"} <= portable
    assert not portable & {"int8-full", "int8-static-full"}
    monkeypatch.setattr("jirgee_export.quantise.probe", lambda: "saturating")
    assert set(candidates("auto", portable=False)) == portable


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
