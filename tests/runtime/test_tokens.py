"""The tokenizer: any text in, the rows of the embedding table out, the same as the tokenizers the models came with."""

from __future__ import annotations

import gzip
import random
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from jirgee.checkpoint import read_settings
from jirgee.errors import BundleError
from jirgee.tokens import FEW, NORMALISERS, Encoded, Tokenizer, TokenizerSpec

AWKWARD = [
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "найз\udc00 минь",
    "\udfff\ud83d",
    "😀😀👩‍👩‍👧‍👦🇲🇳",
    "Just landed in Ulaanbaatar",
    "й ё Й Ё".replace("й", unicodedata.normalize("NFD", "й")),
    "\u200b\u200d\ufeff",
    "\t\r\n\v\f\u2028",
    "[CLS] [SEP] [PAD] [MASK] <unk> <s> </s>",
    "ᠮᠣᠩᠭᠣᠯ 蒙古 монгол",
    "ааа" * 2000,
    "x" * 20000,
    "\U0010ffff\ufffe",
    "▁▁ ▁a",
]


@pytest.fixture(scope="session")
def bert_spec(spm_bert_model: Path) -> TokenizerSpec:
    return read_settings(spm_bert_model.parent).tokenizer


@pytest.fixture(scope="session")
def spm(spm_bert_model: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(spm_bert_model))


def rows_of(encoded: Encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def load(spec: TokenizerSpec, model: Path, max_tokens: int = 48) -> Tokenizer:
    return Tokenizer(spec, model.read_bytes(), max_tokens)


def test_equals_sentencepiece_over_the_samples(
    spm_bert_model: Path, bert_spec: TokenizerSpec, spm: SentencePieceProcessor, sample_texts: list[str]
) -> None:
    encoded = load(bert_spec, spm_bert_model, max_tokens=1000).encode(sample_texts)
    cls, sep = spm.piece_to_id("[CLS]"), spm.piece_to_id("[SEP]")
    assert rows_of(encoded) == [[cls, *spm.encode(text.lower()), sep] for text in sample_texts]
    assert not encoded.truncated.any()


@pytest.mark.parametrize("max_tokens", [3, 4, 8, 20, 48])
def test_truncation_keeps_the_beginning_and_the_special_tokens(
    spm_bert_model: Path, bert_spec: TokenizerSpec, sample_texts: list[str], max_tokens: int
) -> None:
    texts = [*sample_texts[:200], *AWKWARD]
    whole = rows_of(load(bert_spec, spm_bert_model, max_tokens=100_000).encode(texts))
    encoded = load(bert_spec, spm_bert_model, max_tokens).encode(texts)
    for cut, full, truncated in zip(rows_of(encoded), whole, encoded.truncated, strict=True):
        assert len(cut) <= max_tokens
        assert truncated == (len(full) > max_tokens)
        assert cut == (full if not truncated else full[: max_tokens - 1] + full[-1:])


def test_a_text_of_exactly_the_limit_is_not_truncated(spm_bert_model: Path, bert_spec: TokenizerSpec) -> None:
    text = "сайн байна уу"
    length = int(load(bert_spec, spm_bert_model).encode([text]).lengths[0])
    assert not load(bert_spec, spm_bert_model, length).encode([text]).truncated[0]
    assert load(bert_spec, spm_bert_model, length - 1).encode([text]).truncated[0]


def test_no_room_for_text_is_refused(spm_bert_model: Path, bert_spec: TokenizerSpec) -> None:
    with pytest.raises(BundleError, match="max_tokens 2 leaves no room"):
        load(bert_spec, spm_bert_model, 2)


def test_offset_unknown_and_special_rows(
    spm_bert_model: Path, spm: SentencePieceProcessor, sample_texts: list[str]
) -> None:
    """fairseq's layout: every piece id + 1, the unknown piece at a row of its own."""
    spec = TokenizerSpec("sentencepiece", "m", unk_id=3, pad_id=1, prefix=(0, 900), suffix=(2,), offset=1)
    texts = [*sample_texts[:100], "蒙古 ok"]
    expected = [
        [0, 900, *(3 if piece == spm.unk_id() else piece + 1 for piece in spm.encode(text)), 2] for text in texts
    ]
    assert any(3 in row for row in expected), "nothing unknown: the test proves nothing"
    assert rows_of(load(spec, spm_bert_model, 1000).encode(texts)) == expected


def test_no_special_tokens_and_an_empty_text(spm_bert_model: Path) -> None:
    spec = TokenizerSpec("sentencepiece", "m", 0, 1, (), ())
    encoded = load(spec, spm_bert_model).encode(["сайн"])
    assert encoded.lengths[0] > 0
    special = replace(spec, prefix=(5,), suffix=(6,))
    assert rows_of(load(special, spm_bert_model).encode([""])) == [[5, 6]]


def test_awkward_texts_never_raise(spm_bert_model: Path, bert_spec: TokenizerSpec) -> None:
    tokenizer = load(bert_spec, spm_bert_model)
    together = tokenizer.encode(AWKWARD)
    assert len(together) == len(AWKWARD)
    assert (together.lengths >= 2).all()
    assert (together.lengths <= 48).all()
    assert together.ids.min() >= 0
    assert together.ids.max() < 600
    assert rows_of(together) == [rows_of(tokenizer.encode([text]))[0] for text in AWKWARD]


def test_random_text_never_raises(spm_bert_model: Path, bert_spec: TokenizerSpec) -> None:
    rng = random.Random(1)
    alphabet = [chr(rng.randrange(0x110000)) for _ in range(500)] + list("абвгүө \0\n\ud83d[]")
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(1000)]
    encoded = load(bert_spec, spm_bert_model).encode(texts)
    assert len(encoded) == 1000
    assert encoded.lengths.max() <= 48


def test_a_lone_surrogate_reads_as_a_question_mark(spm_bert_model: Path, bert_spec: TokenizerSpec) -> None:
    tokenizer = load(bert_spec, spm_bert_model)
    assert rows_of(tokenizer.encode(["сайн\ud83d уу"])) == rows_of(tokenizer.encode(["сайн? уу"]))


def test_lower_casing(spm_bert_model: Path, bert_spec: TokenizerSpec) -> None:
    assert bert_spec.normalise == ("lower",)
    shout, speak = ["ӨГЛӨӨНИЙ МЭНД! ЁЛКА ҮНЭ"], ["өглөөний мэнд! ёлка үнэ"]
    lower = load(bert_spec, spm_bert_model)
    cased = load(replace(bert_spec, normalise=()), spm_bert_model)
    assert rows_of(lower.encode(shout)) == rows_of(lower.encode(speak))
    assert rows_of(cased.encode(shout)) != rows_of(cased.encode(speak))


def test_normalisers_run_in_order() -> None:
    assert NORMALISERS["nfc"](unicodedata.normalize("NFD", "й")) == "й"
    assert NORMALISERS["nfkc"]("ﬁ") == "fi"


def test_threads_change_nothing(spm_bert_model: Path, bert_spec: TokenizerSpec, sample_texts: list[str]) -> None:
    tokenizer = load(bert_spec, spm_bert_model)
    assert rows_of(tokenizer.encode(sample_texts, 1)) == rows_of(tokenizer.encode(sample_texts, 4))


def test_no_texts(spm_bert_model: Path, bert_spec: TokenizerSpec) -> None:
    encoded = load(bert_spec, spm_bert_model).encode([])
    assert len(encoded) == 0
    assert encoded.ids.size == encoded.lengths.size == encoded.truncated.size == 0


def test_padded_rectangles() -> None:
    encoded = Encoded(np.arange(10, 16, dtype=np.int32), np.array([0, 1, 4, 6]), np.zeros(3, bool))
    ids, mask = encoded.padded(np.array([2, 0]), 3, pad_id=7)
    assert ids.tolist() == [[14, 15, 7], [10, 7, 7]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int32


def test_a_damaged_model_is_a_bundle_error(bert_spec: TokenizerSpec) -> None:
    for model in (b"", b"nonsense", b"\xff" * 1000):
        with pytest.raises(BundleError, match=r"mn_uncased\.model"):
            Tokenizer(bert_spec, model, 48)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "rot13"},
        {"kind": ["sentencepiece"]},
        {"normalise": ["upper"]},
        {"normalise": [["lower"]]},
        {"prefix": None},
        {"prefix": ["[CLS]"]},
        {"suffix": [1.5]},
        {"unk_id": "0"},
        {"offset": True},
        {"pad_id": None},
        {"file": 7},
        {"surprise": 1},
    ],
)
def test_a_wrong_description_is_refused(bert_spec: TokenizerSpec, change: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        TokenizerSpec.from_json(bert_spec.to_json() | change)


@pytest.mark.parametrize("data", [None, "text", [1, 2], {}, {"kind": "sentencepiece"}, 5])
def test_what_is_no_description_is_refused(data: object) -> None:
    with pytest.raises(BundleError, match="tokenizer description"):
        TokenizerSpec.from_json(data)  # type: ignore[arg-type]


def test_a_description_survives_json(bert_spec: TokenizerSpec) -> None:
    import json

    assert TokenizerSpec.from_json(json.loads(json.dumps(bert_spec.to_json()))) == bert_spec


def test_tokenizer_json_gives_the_rows_of_the_tokenizers_package() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "сайн": 4, "##уу": 5, "бай": 6, "##на": 7}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    spec = TokenizerSpec("tokenizers", "tokenizer.json", 0, 1, (2,), (3,), normalise=("lower",))
    encoded = Tokenizer(spec, tokenizer.to_str().encode(), 5).encode(["Сайнуу байна", "hello", "", "бай " * 9])
    assert rows_of(encoded) == [[2, 4, 5, 6, 3], [2, 0, 3], [2, 3], [2, 6, 6, 6, 3]]
    assert encoded.truncated.tolist() == [True, False, False, True]
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(spec, b"{", 5)


# --- the published Mongolian BERT --------------------------------------------------------------------------------

LOOK_ALIKES = str.maketrans("аеорсухі", "aeopcyxi")  # Cyrillic letters -> the Latin ones that look the same


def real_texts(path: Path, count: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        texts = [line.rstrip("\n") for line in lines]
    return random.Random(0).sample(texts, count)


def test_equals_mn_tweet_bert_on_real_texts(shared: Path) -> None:
    """As mn-tweet-bert did it: pieces as strings, each looked up by its line in the vocabulary file."""
    model = shared / "models" / "mongolian-bert" / "mn_uncased.model"
    lines = model.with_suffix(".vocab").read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    vocabulary = {line.split("\t")[0]: row for row, line in enumerate(lines)}
    pieces = SentencePieceProcessor(model_file=str(model))

    texts = real_texts(shared / "data" / "unlabelled.txt.gz", 6000)
    marked = [text for text in texts if any(letter in text for letter in "йёЙЁ")][:500]
    assert len(marked) == 500
    texts += [unicodedata.normalize("NFC", text) for text in marked]
    texts += [unicodedata.normalize("NFD", text) for text in marked]
    texts += [text.translate(LOOK_ALIKES) for text in texts[:300]]
    texts += [f"{text} 😀👩‍👧🇲🇳" for text in texts[:300]] + [text.upper() for text in texts[:300]]
    texts += ["minii naiz sain uu, yu bna?", "ÀÉÎ ñ ß İstanbul", "x²", "ﬁne", "…", "№ 5", "", "   ", "蒙古"]

    cls, sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
    expected = [
        [cls, *[vocabulary.get(piece, 0) for piece in pieces.EncodeAsPieces(text.lower())][:126], sep] for text in texts
    ]
    assert any(0 in row for row in expected)

    settings = read_settings(model.parent)
    assert settings.tokenizer.file == model.name
    assert settings.tokenizer.pad_id == vocabulary["[PAD]"]
    assert settings.tokenizer.mask_id == vocabulary["[MASK]"]
    encoded = load(settings.tokenizer, model, 128).encode(texts)
    different = [text for text, row, want in zip(texts, rows_of(encoded), expected, strict=True) if row != want]
    assert not different, f"{len(different)} of {len(texts)} texts differ, first: {different[0]!r}"


def test_few_texts_are_encoded_as_many_are(bert_spec: TokenizerSpec, spm_bert_model: Path) -> None:
    tokenizer = load(bert_spec, spm_bert_model)
    texts = [*AWKWARD, *(f"{number} дахь жиргээ" for number in range(FEW))]
    assert rows_of(tokenizer.encode(texts)) == [rows_of(tokenizer.encode([text]))[0] for text in texts]
