"""Explanations: pieces that join to the text as typed, effects that are what scoring without the piece says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from jirgee.bundle import NGRAMS, Bundle, write
from jirgee.errors import BundleError
from jirgee.explain import explain, log_odds, units
from jirgee.ngrams import NgramModel
from jirgee.scorer import Scorer
from jirgee.tokens import Tokenizer

NASTY = [
    "Сайн  уу, ХӨГЖИЛТЭЙ ℌ ㎏ ﬁ 😀👨‍👩‍👧 ",
    "  İstanbul İİ найз",
    "café naïve",
    "\ud83d хагас",
    "漢字\n漢字\t漢",
    "",
    "   ",
    "a" * 400,
]


def remade(bundle: Bundle, out, extra=None, **changes) -> Bundle:
    files = {name: bundle.read(name) for name in bundle.files} | (extra or {})
    return write(out, files, **bundle.facts | changes)


@pytest.fixture(scope="module")
def hybrid(tiny_bundle, tmp_path_factory):
    rng = np.random.default_rng(5)
    ngrams = NgramModel(rng.random(1 << 10, np.float32), rng.normal(size=(1 << 10, 2)).astype(np.float32), np.zeros(2))
    out = tmp_path_factory.mktemp("hybrid") / "bundle"
    made = remade(Bundle.load(tiny_bundle), out, {NGRAMS: ngrams.to_bytes()}, ngram_weight=0.7, temperature=1.3)
    with Scorer.load(made, "cpu", threads=1) as loaded:
        yield loaded


def by_hand(scorer: Scorer, text: str, replacement: str) -> list[np.ndarray]:
    """Probabilities without each piece, each computed alone by the graph and the n-grams themselves."""
    bundle, found = scorer.bundle, []
    ids = scorer.tokenizer.encode([text]).ids
    ngrams = NgramModel.from_bytes(bundle.read(NGRAMS), 2) if bundle.ngram_weight else None
    for unit in units(scorer.tokenizer, text):
        middle = [bundle.tokenizer.mask_id] * (unit.last - unit.first) if replacement == "mask" else []
        row = np.array([[*ids[: unit.first], *middle, *ids[unit.last :]]], np.int32)
        logits = scorer._session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})[0][0]
        logits = logits / bundle.temperature
        if ngrams:
            logits = logits + bundle.ngram_weight * ngrams.logits([text[: unit.start] + text[unit.end :]])[0]
        exp = np.exp(logits - logits.max())
        found.append(exp / exp.sum())
    return found


@pytest.mark.parametrize("kind", ["scorer", "hybrid", "deletion", "no such row"])
def test_effects_are_what_scoring_without_the_piece_says(kind, scorer, hybrid, texts, tmp_path):
    used = hybrid if kind == "hybrid" else scorer
    if kind in ("deletion", "no such row"):  # an embedding table that was cut before the mask token
        spec = replace(scorer.bundle.tokenizer, mask_id=-1 if kind == "deletion" else 99_999)
        used = Scorer.load(remade(scorer.bundle, tmp_path / "maskless", tokenizer=spec), "cpu", threads=1)
    expected_replacement = "mask" if kind in ("scorer", "hybrid") else "deletion"
    text = texts[0]
    found = explain(used, text)
    json.dumps(found, allow_nan=False)
    assert found["replacement"] == expected_replacement
    assert found["label"] == used.score([text]).labels[0]
    expected = by_hand(used, text, expected_replacement)
    assert len(expected) == len(found["tokens"]) > 5
    whole = used.score([text]).probs[0].astype(float)
    for token, probs in zip(found["tokens"], expected, strict=True):
        assert list(token["without"].values()) == pytest.approx(probs, abs=1e-4)
        moved = np.log(whole[0] / whole[1]) - np.log(probs[0] / probs[1])
        assert token["effect"] == pytest.approx({"comedian": moved, "commentator": -moved}, abs=1e-3)
    assert max(abs(token["effect"]["comedian"]) for token in found["tokens"]) > 0.01


@pytest.mark.parametrize("text", NASTY)
def test_pieces_join_to_the_text_as_typed(scorer, text):
    found = explain(scorer, text)
    joined = "".join(token["text"] for token in found["tokens"])
    assert text.startswith(joined)
    assert all(token["text"] == text[token["start"] : token["end"]] for token in found["tokens"])
    assert all(token["text"].strip() for token in found["tokens"])
    if not found["truncated"]:
        assert not text[len(joined) :].strip()
    assert bool(found["tokens"]) == bool(text.strip())


def test_a_hybrid_shows_more_than_its_encoder(hybrid, scorer, texts):
    """What the encoder never reads, behind its limit, is no piece; the answer says that the text was cut."""
    long = " ".join(texts)
    found = explain(hybrid, long)
    assert found["truncated"]
    assert sum(unit.last - unit.first for unit in units(hybrid.tokenizer, long)) <= hybrid.bundle.max_tokens
    mixed, plain = (explain(used, texts[0])["tokens"] for used in (hybrid, scorer))
    assert any(abs(a["effect"]["comedian"] - b["effect"]["comedian"]) > 0.05 for a, b in zip(mixed, plain, strict=True))


def test_spans_are_those_of_the_typed_text_also_where_cleaning_changes_its_length(tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    spec = replace(bundle.tokenizer, normalise=("nfc", "lower"))
    tokenizer = Tokenizer(spec, bundle.read(spec.file), 48)
    text = "й İй ХОЁР"  # the first й in two code points, İ is two when lower
    pieces = [text[unit.start : unit.end] for unit in units(tokenizer, text)]
    assert pieces[0] == "й"
    assert pieces[-1].endswith("Р")
    assert "".join(pieces) == text
    assert len(tokenizer.spans(text)) == len(tokenizer.encode([text]).ids) - 2


def test_word_pieces_have_their_places_too():
    tokenizers = pytest.importorskip("tokenizers")
    from jirgee.tokens import TokenizerSpec

    vocabulary = {"[UNK]": 0, "са": 1, "##йн": 2, "уу": 3}
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    spec = TokenizerSpec("tokenizers", "tokenizer.json", 0, 0, (0,), (0,))
    tokenizer = Tokenizer(spec, model.to_str().encode(), 16)
    found = units(tokenizer, " сайн  уу ")
    assert [" сайн  уу "[unit.start : unit.end] for unit in found] == [" са", "йн", "  уу"]
    assert [(unit.first, unit.last) for unit in found] == [(1, 2), (2, 3), (3, 4)]


def test_log_odds_are_exact_where_a_probability_is_nearly_one():
    probs = np.array([[1 - 1e-12, 1e-12], [0.5, 0.5]])
    assert log_odds(probs) == pytest.approx(np.array([[27.63, -27.63], [0, 0]]), abs=0.01)
    three = np.array([0.7, 0.2, 0.1])
    assert log_odds(three) == pytest.approx(np.log(three / (1 - three)))


def test_one_text_is_wanted(scorer):
    with pytest.raises(TypeError, match="one text, not list"):
        explain(scorer, ["a", "b"])


@pytest.mark.parametrize("name", ["broken", "broken.jirgee"])
def test_a_broken_attention_graph_is_refused(scorer, tmp_path, name):
    with pytest.raises(BundleError, match=r"attention\.onnx: is not an ONNX graph"):
        remade(scorer.bundle, tmp_path / name, {"attention.onnx": b"not a graph"})


def test_the_terminal_shows_every_piece_with_its_sign(jirgee, tiny_bundle, texts):
    run = jirgee("explain", tiny_bundle, "-", input=texts[0] + "\n")
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(jirgee("explain", tiny_bundle, texts[0], "--json").stdout)
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"{found['label']} {found['probs'][found['label']]:.3f}")
    assert "\x1b" not in run.stdout
    assert found["truncated"] == any(line.startswith("cut to the first") for line in lines)
    head = next(place for place, line in enumerate(lines) if line.startswith(" effect"))
    for line, token in zip(lines[head + 1 :], found["tokens"], strict=True):
        effect = token["effect"][found["label"]]
        assert line.startswith(f"{effect:+7.2f}")
        assert line.endswith(" ".join(token["text"].split()))
        assert ("░" if effect > 0 else "█") not in line


def test_colours_only_where_they_are_wanted(scorer, texts, monkeypatch):
    import sys

    from jirgee import cli_explain

    found = explain(scorer, texts[0], attention=False)
    assert any(cli_explain.FOR in line for line in cli_explain.drawn(found, found["label"], True))
    assert not any("\x1b" in line for line in cli_explain.drawn(found, found["label"], False))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli_explain._colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not cli_explain._colours()


def test_an_unknown_label_is_refused_in_one_line(jirgee, tiny_bundle):
    run = jirgee("explain", tiny_bundle, "сайн уу", "--label", "poet")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "jirgee: no such label: 'poet'; the bundle's are comedian, commentator\n"


@pytest.mark.parametrize("text", ["Сайн уу 😀", ""])
def test_the_server_s_document_describes_the_answer(scorer, text):
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("starlette")
    from jirgee import openapi
    from jirgee.asked import Settings

    document = openapi.document("0", scorer.bundle.labels, Settings(), explains=True)
    schema = document["components"]["schemas"]["Explanation"]
    found = explain(scorer, text)
    jsonschema.validate(found, schema)
    weights = {"layers": 2, "heads": 2, "before": 1, "after": 1, "weights": "AA=="}
    jsonschema.validate(found | {"attention": weights}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"replacement": "guess"}, schema)


def test_the_page_says_everything_in_both_languages_and_nothing_in_vain():
    from jirgee.explain_page import PAGE

    words = (PAGE / "words.js").read_text(encoding="utf-8")
    tables = re.findall(r"^  (mn|en): \{\n(.*?)^  \},", words, re.M | re.S)
    assert [language for language, _ in tables] == ["mn", "en"]
    mongolian, english = (dict(re.findall(r'^    (\w+): "(.*)",$', table, re.M)) for _, table in tables)
    assert mongolian.keys() == english.keys()
    for key, text in mongolian.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), key
    used = "".join(path.read_text(encoding="utf-8") for path in PAGE.iterdir() if path.name != "words.js")
    said = set(re.findall(r'say\("(\w+)"|data-(?:say|label|hint)="(\w+)"|tell\("[\w-]+", "(\w+)"', used))
    assert {key for found in said for key in found if key} | {"mask", "deletion"} == mongolian.keys()
