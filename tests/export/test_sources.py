"""Somebody else's model: the layout of mn-tweet-bert, WordPiece, a hub id; labels by flag or from its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jirgee.cli import main
from jirgee.errors import InputError
from jirgee.scorer import Scorer
from jirgee_export.build import build
from jirgee_export.graph import load_model
from jirgee_export.reference import reference_probs
from jirgee_export.sources import open_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory, original_base, tiny_checkpoint) -> Path:
    """The tiny checkpoint as mn-tweet-bert would have left it: no labels, tensor names of its time."""
    out = tmp_path_factory.mktemp("original") / "tuned"
    shutil.copytree(original_base, out)
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_model(tiny_checkpoint).state_dict().items()
    }
    torch.save(state, out / "pytorch_model.bin")
    return out


def test_the_layout_of_mn_tweet_bert_scores_as_its_twin(tmp_path, original, tiny_checkpoint, texts):
    built = build(original, tmp_path / "bundle", "fp32", labels=("comedian", "commentator"))
    assert built.bundle.max_tokens == 64, "as many as the model has positions"
    settings = open_checkpoint(original).settings
    twin = reference_probs(load_model(tiny_checkpoint), settings, original, texts)
    with Scorer.load(built.bundle, "cpu") as scorer:
        assert np.abs(scorer.score(texts).probs - twin).max() < 1e-4
    assert built.bundle.labels == ("comedian", "commentator")


def test_its_labels_come_from_the_flag_its_train_file_or_the_data(tmp_path, original, samples):
    assert open_checkpoint(original).labels == ["LABEL_0", "LABEL_1"]
    assert open_checkpoint(original, ["b", "a"]).labels == ["b", "a"]
    assert open_checkpoint(original, data=samples / "dev.tsv").labels == ["comedian", "commentator"]
    with_data = shutil.copytree(original, tmp_path / "with_data")
    (with_data / "train.tsv").write_text("text\tlabel\nнэг\t1\nхоёр\t0\n", encoding="utf-8")
    assert open_checkpoint(with_data).labels == ["0", "1"]
    with pytest.raises(InputError, match=r"tells 2 labels apart, and these are given: a; name them .* --labels A,B"):
        open_checkpoint(original, ["a"])


def test_the_flag_reaches_the_bundle(capsys, tmp_path, original):
    words = ["export", str(original), "-o", str(tmp_path / "bundle"), "--recipe", "fp32", "--quiet"]
    assert main([*words, "--labels", "no, yes"]) == 0
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["labels"] == ["no", "yes"]


@pytest.mark.parametrize(
    ("name", "data", "words"), [("base", None, "has no classifier"), ("bad", b"x", "cannot be read")]
)
def test_what_is_no_fine_tuned_model_is_told(tmp_path, original_base, name, data, words):
    directory = shutil.copytree(original_base, tmp_path / name)
    if data:
        (directory / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        open_checkpoint(directory)
    assert "\n" not in str(caught.value)


def word_piece(directory: Path, texts: list[str]) -> Path:
    """A tiny BERT with the fast tokenizer that most models of the hub have."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names: Any = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names).save_pretrained(directory)
    sizes: Any = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(vocab_size=400, **sizes)).save_pretrained(directory)
    return directory


def test_a_word_piece_model_scores_as_transformers_does(tmp_path, sample_texts):
    from transformers import AutoTokenizer

    directory = word_piece(tmp_path / "model", sample_texts)
    built = build(directory, tmp_path / "bundle", "fp32")
    texts = sample_texts[:20]
    batch = AutoTokenizer.from_pretrained(directory)(
        texts, padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    model = load_model(directory)
    with torch.inference_mode():
        expected = torch.softmax(
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, dim=1
        ).numpy()
    with Scorer.load(built.bundle, "cpu") as scorer:
        assert np.abs(scorer.score(texts).probs - expected).max() < 1e-4


def test_a_hub_id_is_downloaded_and_an_unreachable_hub_is_told(monkeypatch, capsys, tmp_path, tiny_checkpoint):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(tiny_checkpoint)
    )
    assert main(["export", "owner/name", "-o", str(tmp_path / "b"), "--recipe", "fp32", "--quiet"]) == 0
    assert asked == ["owner/name"]

    def unreachable(name: str, **_: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    capsys.readouterr()
    assert main(["export", "owner/name", "-o", str(tmp_path / "c"), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "owner/name" in said
    assert "no route" in said


@pytest.mark.slow
def test_bert_base_fuses_quantises_and_passes(tmp_path, spm_bert_model, original_base):
    """12 layers, 768 wide, 32,000 pieces, random weights, two labels."""
    from transformers import BertConfig, BertForSequenceClassification

    directory = tmp_path / "base"
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(vocab_size=32_000, num_labels=2)).save_pretrained(directory)
    shutil.copy(spm_bert_model, directory / "mn_uncased.model")
    built = build(directory, tmp_path / "bundle", "int8")  # check_fusion and the limit on the fp32 graph are inside
    found = built.tried["int8"]
    assert not found.failures
    assert found.comparison.mean_change < 0.01
    assert built.bundle.size < 130e6
