"""What a checkpoint directory says of its texts, and what is said when it says nothing of use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jirgee.checkpoint import DEFAULT_MAX_TOKENS, SETTINGS, Settings, read_json, read_labels, read_settings
from jirgee.errors import InputError, JirgeeError
from jirgee.tokens import TokenizerSpec


@pytest.fixture
def directory(tmp_path: Path, spm_bert_model: Path) -> Path:
    """The layout of mongolian-bert, tokenizer only."""
    shutil.copy(spm_bert_model, tmp_path / "mn_uncased.model")
    return tmp_path


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")


def test_mongolian_bert_is_understood_without_settings(directory: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(directory / "mn_uncased.model"))
    settings = read_settings(directory)
    assert settings.max_tokens == DEFAULT_MAX_TOKENS
    assert settings.temperature == 1.0
    assert settings.tokenizer == TokenizerSpec(
        kind="sentencepiece",
        file="mn_uncased.model",
        unk_id=0,
        pad_id=pieces.piece_to_id("[PAD]"),
        prefix=(pieces.piece_to_id("[CLS]"),),
        suffix=(pieces.piece_to_id("[SEP]"),),
        mask_id=pieces.piece_to_id("[MASK]"),
        normalise=("lower",),
    )


def test_the_cased_model_keeps_its_case(directory: Path) -> None:
    (directory / "mn_uncased.model").rename(directory / "mn_cased.model")
    assert read_settings(directory).tokenizer.normalise == ()


def test_xlm_r_has_fairseqs_layout(directory: Path) -> None:
    (directory / "mn_uncased.model").rename(directory / "sentencepiece.bpe.model")
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizerFast"})
    spec = read_settings(directory).tokenizer
    assert (spec.prefix, spec.pad_id, spec.suffix, spec.unk_id) == ((0,), 1, (2,), 3)
    assert (spec.offset, spec.mask_id) == (1, 601)


@pytest.mark.parametrize("lower", [True, False])
def test_albert_lower_cases_if_its_configuration_does(directory: Path, lower: bool) -> None:
    (directory / "mn_uncased.model").rename(directory / "spiece.model")
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "AlbertTokenizer", "do_lower_case": lower})
    assert read_settings(directory).tokenizer.normalise == (("lower",) if lower else ())


def test_settings_are_read_as_written(directory: Path) -> None:
    settings = Settings(read_settings(directory).tokenizer, 64, 1.25)
    settings.write(directory)
    assert read_settings(directory) == settings


def test_written_settings_go_before_the_files(directory: Path) -> None:
    spec = TokenizerSpec("sentencepiece", "other.model", 0, 1, (), ())
    Settings(spec, 10).write(directory)
    assert read_settings(directory).tokenizer.file == "other.model"


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no tokenizer that jirgee reads \(mn_uncased\.model") as error:
        read_settings(tmp_path)
    assert error.value.path == tmp_path


def test_a_tokenizer_without_its_special_pieces(tmp_path: Path, sample_texts: list[str]) -> None:
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(sample_texts[:300]), model_prefix=str(tmp_path / "mn_cased"), vocab_size=300
    )
    with pytest.raises(InputError, match=r"mn_cased\.model: has no piece \[PAD\]"):
        read_settings(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_a_damaged_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mn_uncased.model").write_bytes(content)
    with pytest.raises(InputError, match=r"mn_uncased\.model: is not a SentencePiece model"):
        read_settings(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\ufeff{}"])
def test_what_is_not_a_json_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.json: (is not a JSON object|cannot be read as JSON)"):
        read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match="none"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": None},
        {"tokenizer": "sentencepiece"},
        {"tokenizer": {}},
        {"max_tokens": "48"},
        {"max_tokens": 0},
        {"max_tokens": None},
        {"temperature": "1"},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": None},
    ],
)
def test_settings_with_a_wrong_value(directory: Path, change: dict[str, Any]) -> None:
    Settings(read_settings(directory).tokenizer).write(directory)
    write_json(directory / SETTINGS, json.loads((directory / SETTINGS).read_text()) | change)
    with pytest.raises(JirgeeError) as error:
        read_settings(directory)
    assert SETTINGS in str(error.value)


@pytest.mark.parametrize("missing", ["tokenizer", "max_tokens", "temperature"])
def test_settings_without_a_field_name_it(directory: Path, missing: str) -> None:
    Settings(read_settings(directory).tokenizer).write(directory)
    data = json.loads((directory / SETTINGS).read_text())
    del data[missing]
    write_json(directory / SETTINGS, data)
    with pytest.raises(InputError, match=f"{SETTINGS}: has no '{missing}'"):
        read_settings(directory)


def test_labels_in_logit_order(tmp_path: Path) -> None:
    names = {str(i): f"label {i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    write_json(tmp_path / "config.json", {"id2label": names})
    assert read_labels(tmp_path) == [f"label {i}" for i in range(11)]


def test_no_labels(tmp_path: Path) -> None:
    assert read_labels(tmp_path) is None
    write_json(tmp_path / "config.json", {"hidden_size": 3})
    assert read_labels(tmp_path) is None


@pytest.mark.parametrize("labels", [{"a": "x"}, ["x", "y"], "xy", {"0": 1}])
def test_labels_that_are_not_a_table(tmp_path: Path, labels: Any) -> None:
    write_json(tmp_path / "config.json", {"id2label": labels})
    with pytest.raises(InputError, match=r"config\.json.*id2label"):
        read_labels(tmp_path)
