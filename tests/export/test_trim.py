"""Trimming: a cut vocabulary cuts and scores every text as before whose pieces are kept, or is refused."""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import BertConfig, BertForSequenceClassification

from jirgee.bundle import Bundle
from jirgee.check import check
from jirgee.checkpoint import Settings, read_settings
from jirgee.cli import main
from jirgee.errors import GateError, InputError
from jirgee.golden import score_alone
from jirgee.tokens import Tokenizer, TokenizerSpec
from jirgee_export import trim as trimming
from jirgee_export.reference import torch_logits
from jirgee_export.trim import Pieces, cut_pieces, cut_rows, trim
from jirgee_export.verify import Limits


def tiny(rows: int, pad_id: int, width: int = 16) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=rows, intermediate_size=16, pad_token_id=pad_id, num_labels=3, **sizes)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():  # logits that tell texts apart
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embeddings" not in name:
                parameter.mul_(15)
    return model


@pytest.fixture
def spm(original_base) -> tuple[Settings, bytes]:
    settings = read_settings(original_base)
    return settings, (original_base / settings.tokenizer.file).read_bytes()


@pytest.fixture(scope="session")
def xlmr(tmp_path_factory, sample_texts) -> tuple[Settings, bytes]:
    """The layout of XLM-R: fairseq's rows, pieces from the fifth row on, the mask last."""
    prefix = tmp_path_factory.mktemp("xlmr") / "spm"
    SentencePieceTrainer.train(
        sentence_iterator=iter(sample_texts), model_prefix=str(prefix), vocab_size=500, minloglevel=2
    )
    spec = TokenizerSpec("sentencepiece", "spm.model", 3, 1, (0,), (2,), offset=1, mask_id=501)
    return Settings(spec, 64), prefix.with_suffix(".model").read_bytes()


def encoded_alike(before: tuple[Settings, bytes], after: tuple[Settings, bytes], texts: list[str]) -> tuple[Any, Any]:
    return tuple(Tokenizer(s.tokenizer, data, s.max_tokens).encode(texts) for s, data in (before, after))  # pyright: ignore


@pytest.mark.parametrize("layout", ["spm", "xlmr"])
def test_what_is_kept_scores_as_before(layout, request, sample_texts):
    settings, data = request.getfixturevalue(layout)
    model = tiny(600, settings.tokenizer.pad_id)
    original = copy.deepcopy(model)
    changed, smaller, report = trim(model, settings, data, sample_texts[:40], 1)
    assert report.pieces[1] < 0.9 * report.pieces[0]
    assert report.kept_share == 1
    assert report.whole == report.texts == len(set(sample_texts[:40]))
    assert 0 < report.unseen_share < 0.5
    rows = len(model.get_input_embeddings().weight)
    assert rows == model.config.vocab_size < 0.9 * 600
    old, new = encoded_alike((settings, data), (changed, smaller), sample_texts[:40])
    assert np.array_equal(old.offsets, new.offsets)
    assert not np.array_equal(old.ids, new.ids)
    before = torch_logits(original, old, settings.tokenizer.pad_id)
    after = torch_logits(model, new, changed.tokenizer.pad_id)
    assert np.ptp(before, axis=0).min() > 0.1
    assert np.abs(before - after).max() <= 1e-5
    # a text with other pieces is still cut, and into known ones
    [other] = [encoded_alike((settings, data), (changed, smaller), sample_texts[300:360])[1]]
    assert other.ids.max() < rows
    assert (other.ids == changed.tokenizer.unk_id).mean() < 0.02


def test_rare_pieces_go_when_asked(spm, sample_texts):
    settings, data = spm
    _, _, once = trim(tiny(600, 3), settings, data, sample_texts, 1)
    _, smaller, often = trim(tiny(600, 3), settings, data, sample_texts, 20)
    assert often.pieces[1] < once.pieces[1]
    assert 0.5 < often.kept_share < once.kept_share == 1
    assert 0 < often.whole < often.texts
    assert 0 < often.compared <= often.whole
    assert SentencePieceProcessor(model_proto=smaller).get_piece_size() == often.pieces[1]


def test_characters_and_specials_stay(spm):
    settings, data = spm
    _, smaller, _ = trim(tiny(600, 3), settings, data, ["сайн"], 1)
    kept = SentencePieceProcessor(model_proto=smaller)
    names = {kept.id_to_piece(i) for i in range(len(kept))}
    assert {"<unk>", "<s>", "</s>", "[PAD]", "[CLS]", "[SEP]", "[MASK]"} <= names
    whole = Pieces.read(data, "x")
    letters = {name for name in whole.names if len(name) == 1 and "а" <= name <= "я"}
    assert len(letters) > 20
    assert letters <= names
    scores = {name: score for name, score, plain in zip(*vars(whole).values(), strict=True) if plain}
    assert {min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)} <= names


def test_a_tokenizer_that_cuts_otherwise_is_refused(monkeypatch, spm, sample_texts):
    """A used piece that is lost is counted; bytes that are not what was meant to be kept are found out."""
    settings, data = spm
    kept = Pieces.kept

    def sabotaged(self, counts, least):
        keep = kept(self, counts, least)
        keep[np.argmax(counts * self.ordinary)] = False
        return keep

    def wrong_bytes(model, keep):
        other = keep.copy()
        other[np.flatnonzero(keep)[-1]], other[np.flatnonzero(~keep)[0]] = False, True
        return cut_pieces(model, other)

    monkeypatch.setattr(Pieces, "kept", sabotaged)
    _, _, report = trim(tiny(600, 3), settings, data, sample_texts, 1)
    assert report.whole < report.texts, "what was lost is counted"
    monkeypatch.undo()
    monkeypatch.setattr(trimming, "cut_pieces", wrong_bytes)
    with pytest.raises(GateError, match=r"refused: trimmed, mn_uncased\.model cuts a text otherwise"):
        trim(tiny(600, 3), settings, data, sample_texts[:60], 1)


def test_other_logits_are_refused(monkeypatch, spm, sample_texts):
    settings, data = spm
    cut = trimming.cut_table

    def sabotaged(model, rows):
        cut(model, np.roll(rows, 1))

    monkeypatch.setattr(trimming, "cut_table", sabotaged)
    with pytest.raises(GateError, match=r"a logit of a text whose pieces are all kept changes by .*limit 1e-05"):
        trim(tiny(600, 3), settings, data, sample_texts[:60], 1)


def test_what_cannot_be_cut(spm, tmp_path, sample_texts):
    settings, data = spm
    model = tiny(600, 3)
    prefix = tmp_path / "bpe"
    SentencePieceTrainer.train(
        sentence_iterator=iter(sample_texts), model_prefix=str(prefix), vocab_size=300, model_type="bpe", minloglevel=2
    )
    bpe = prefix.with_suffix(".model").read_bytes()
    for changed, given, texts, words in (
        (settings, bpe, sample_texts, "is not a unigram model"),
        (
            replace(settings, tokenizer=replace(settings.tokenizer, kind="tokenizers")),
            data,
            ["a"],
            "not a SentencePiece",
        ),
        (settings, data, ["", " "], "hold no pieces"),
    ):
        with pytest.raises(InputError, match=words):
            trim(model, changed, given, texts, 1)
    for junk in (b"", b"hello", data[:-3]):
        with pytest.raises(InputError):
            Pieces.read(junk, "x")
    with pytest.raises(InputError, match="not in the embedding table of 100 rows"):
        cut_rows(settings.tokenizer, np.ones(600, bool), 100)
    middle = replace(settings.tokenizer, mask_id=300)
    keep = np.ones(600, bool)
    keep[250:350] = False
    with pytest.raises(InputError, match="special rows lie between"):
        cut_rows(middle, keep, 600)


def test_mongolian_bert_on_5000_texts(shared):
    """The published vocabulary of 32,000 pieces, cut to three lines of four and compared on 5,000 lines whose pieces
    are kept, those of the fourth part first; random weights.
    """
    base = shared / "models" / "mongolian-bert"
    settings = replace(read_settings(base), max_tokens=128)
    data = (base / settings.tokenizer.file).read_bytes()
    with gzip.open(shared / "data" / "unlabelled.txt.gz", "rt", encoding="utf-8") as lines:
        texts = list(dict.fromkeys(line.rstrip("\n") for line in lines))
    unseen = texts[::4]
    seen = [text for i, text in enumerate(texts) if i % 4]
    model = tiny(32_000, settings.tokenizer.pad_id, width=8)
    original = copy.deepcopy(model)
    changed, smaller, report = trim(model, settings, data, seen, 1)
    assert report.pieces[0] == 32_000 > report.pieces[1]
    rows = cut_rows(settings.tokenizer, _kept(data, smaller), 32_000)[1]
    stays = np.isin(np.arange(32_000), rows)
    whole = Tokenizer(settings.tokenizer, data, 1 << 20).encode(unseen)
    lost = np.add.reduceat(~stays[whole.ids], whole.offsets[:-1])
    new_ones = [text for text, gone in zip(unseen, lost, strict=True) if not gone]
    assert len(new_ones) > 1000
    assert lost.any()
    chosen = (new_ones + seen)[:5000]
    assert len(chosen) == 5000
    old, new = encoded_alike((settings, data), (changed, smaller), chosen)
    assert np.array_equal(old.ids, rows[new.ids])
    before = torch_logits(original, old, settings.tokenizer.pad_id)
    after = torch_logits(model, new, changed.tokenizer.pad_id)
    assert np.ptp(before, axis=0).min() > 0.1
    assert np.abs(before - after).max() <= 1e-5


def _kept(data: bytes, smaller: bytes) -> np.ndarray:
    names = set(Pieces.read(smaller, "x").names)
    return np.array([name in names for name in Pieces.read(data, "x").names])


def test_an_export_with_a_trimmed_vocabulary(capsys, tmp_path, tiny_checkpoint, samples, sample_texts):
    """The command, from the files to the bundle: smaller, reported, and of the same scores on the texts it knows."""
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{text}\n" for text in sample_texts[:60]), encoding="utf-8")
    trimmed, plain = tmp_path / "trimmed", tmp_path / "plain"
    words = ["export", str(tiny_checkpoint), "--recipe", "fp32", "--data", str(samples / "dev.tsv"), "-o"]
    assert main([*words, str(trimmed), "--trim-to", str(few), str(few), "--max-drop", "50"]) == 0
    assert "60 of 60 texts are cut as before" in capsys.readouterr().err
    assert main([*words, str(plain), "--quiet"]) == 0
    before, after = Bundle.load(plain), Bundle.load(trimmed)
    report = json.loads(after.read("report.json"))["trimming"]
    assert report["pieces"][0] == 600 > report["pieces"][1]
    assert (report["kept_share"], report["texts"], report["whole"]) == (1, 60, 60)
    assert report["max_logit_change"] <= 1e-5
    assert len(report["accuracy"]) == 2
    assert "trimming" not in json.loads(before.read("report.json"))
    assert after.files["model.onnx"][0] < before.files["model.onnx"][0] - 32 * 4 * 80
    probs = [score_alone(bundle, sample_texts[:60]) for bundle in (before, after)]
    assert np.abs(probs[0] - probs[1]).max() < 1e-5
    assert check(trimmed)["passed"]


def test_a_vocabulary_that_costs_accuracy_is_refused():
    report = trimming.Trimming((10, 5), 1.0, 0.1, 4, 4, 4, 0.0)
    gold = np.array([0, 1] * 100)
    good = np.eye(2)[gold]
    bad = good.copy()
    bad[:10] = bad[:10, ::-1]
    assert report.judged(good, good, gold, Limits(max_drop=0.5)).flips == 0
    found = report.judged(good, bad, gold, Limits(max_drop=5))
    assert (found.flips, found.accuracy) == (10, (1.0, 0.95))
    with pytest.raises(GateError, match=r"accuracy on held-out rows drops 5\.00 points \(limit 0\.5: --max-drop\)"):
        report.judged(good, bad, gold, Limits(max_drop=0.5))
