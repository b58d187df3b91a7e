"""The published Mongolian BERT: the pieces that it was trained with, and those of the form in which the hub has it."""

from __future__ import annotations

import gzip
import random
import unicodedata
from pathlib import Path

import pytest

from jirgee.checkpoint import read_settings
from jirgee.tokens import Tokenizer
from jirgee_train.model import ALBERT_TOKENIZER

transformers = pytest.importorskip("transformers")
COUNT = 5000


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "mongolian-bert" / "mn_uncased.model"


@pytest.fixture(scope="module")
def real_texts(shared: Path) -> list[str]:
    with gzip.open(shared / "data" / "unlabelled.txt.gz", "rt", encoding="utf-8", newline="\n") as lines:
        texts = [line.rstrip("\n") for line in lines]
    return random.Random(1).sample(texts, COUNT)


def albert(model: Path, **changes: bool):
    settings = {name: value for name, value in ALBERT_TOKENIZER.items() if name != "tokenizer_class"}
    return transformers.AlbertTokenizer(vocab_file=str(model), do_lower_case=True, **settings | changes)


def rows(model: Path, texts: list[str]) -> list[list[int]]:
    encoded = Tokenizer(read_settings(model.parent).tokenizer, model.read_bytes(), 128).encode(texts)
    return [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]


def test_the_form_that_checkpoints_have_gives_the_same_pieces(model: Path, real_texts: list[str]) -> None:
    texts = [*real_texts, *(unicodedata.normalize("NFD", text) for text in real_texts[:500])]
    texts += [f"{text.upper()} 😀👩‍👧🇲🇳 wifi" for text in real_texts[:200]]
    tokenizer = albert(model)
    for text, ours in zip(texts, rows(model, texts), strict=True):
        assert tokenizer(text, truncation=True, max_length=128)["input_ids"] == ours, text


def test_what_differs_is_what_the_documentation_says(model: Path, real_texts: list[str]) -> None:
    """Accents, which transformers takes off by default; quotes of TeX; special pieces that somebody writes out."""
    texts = real_texts[:1000]
    stripped = albert(model, keep_accents=False)
    different = [
        text for text, ours in zip(texts, rows(model, texts), strict=True) if stripped(text)["input_ids"] != ours
    ]
    accented = [text for text in texts if set(text.lower()) & set("йё")]
    assert len(different) > 0.7 * len(texts)
    assert sum(text in different for text in accented) > 0.95 * len(accented)
    odd = ["``сайн'' уу", "[CLS] сайн [SEP]"]
    assert all(albert(model)(text)["input_ids"] != ours for text, ours in zip(odd, rows(model, odd), strict=True))
