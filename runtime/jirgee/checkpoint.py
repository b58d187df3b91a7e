"""What a checkpoint directory says of its texts: the tokenizer, the token limit, the temperature.

The contract between training and export, which meet only in files. ``jirgee train`` writes ``jirgee.json`` beside the
ordinary Hugging Face files; a directory without it (somebody else's model, the layout of mn-tweet-bert) is understood
from the files that it has. Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import BundleError, InputError, optional_import
from .tokens import TokenizerSpec

SETTINGS = "jirgee.json"
DEFAULT_MAX_TOKENS = 128


@dataclass(frozen=True)
class Settings:
    """``tokenizer``: with ``tokenizer.file`` in the directory. ``temperature``: logits are divided by it.
    ``ngram_weight``: of the logits of ``ngrams.npz``, which are then added; 0 if there is none.
    """

    tokenizer: TokenizerSpec
    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 1.0
    ngram_weight: float = 0.0

    def write(self, directory: Path) -> None:
        data = {
            "format": 1,
            "tokenizer": self.tokenizer.to_json(),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "ngram_weight": self.ngram_weight,
        }
        (directory / SETTINGS).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_settings(directory: Path) -> Settings:
    """Settings of a checkpoint or base. Raises InputError if the directory holds no tokenizer that jirgee knows."""
    if (directory / SETTINGS).is_file():
        data = read_json(directory / SETTINGS)
        try:
            tokenizer = TokenizerSpec.from_json(data["tokenizer"])
            settings = Settings(tokenizer, data["max_tokens"], data["temperature"], data.get("ngram_weight", 0.0))
        except KeyError as error:
            raise InputError(f"has no {error}; train again", directory / SETTINGS) from None
        except BundleError as error:
            raise InputError(str(error), directory / SETTINGS) from None
        if type(settings.max_tokens) is not int or settings.max_tokens < 1:
            raise InputError(f"max_tokens is {settings.max_tokens!r}, not a whole number above 0", directory / SETTINGS)
        if type(settings.temperature) not in (int, float) or not 0 < settings.temperature < float("inf"):
            raise InputError(f"temperature is {settings.temperature!r}, not a number above 0", directory / SETTINGS)
        if type(settings.ngram_weight) not in (int, float) or not 0 <= settings.ngram_weight < float("inf"):
            raise InputError(f"ngram_weight is {settings.ngram_weight!r}, not a number from 0", directory / SETTINGS)
        return settings
    for name, lower in (("mn_uncased.model", True), ("mn_cased.model", False)):
        if (directory / name).is_file():
            return Settings(_bert_pieces(directory / name, lower))
    config = directory / "tokenizer_config.json"
    data = read_json(config) if config.is_file() else {}
    kind = str(data.get("tokenizer_class", "")).removesuffix("Fast")
    if kind in ("XLMRobertaTokenizer", "CamembertTokenizer") and (directory / "sentencepiece.bpe.model").is_file():
        return Settings(_xlmr_pieces(directory / "sentencepiece.bpe.model"))
    if kind == "AlbertTokenizer" and (directory / "spiece.model").is_file():
        return Settings(_bert_pieces(directory / "spiece.model", bool(data.get("do_lower_case", False))))
    if (directory / "tokenizer.json").is_file():
        return Settings(_tokenizer_json(directory, data))
    raise InputError(
        "holds no tokenizer that jirgee reads (mn_uncased.model, sentencepiece.bpe.model with XLMRobertaTokenizer, "
        "spiece.model with AlbertTokenizer, tokenizer.json)",
        directory,
    )


def read_labels(directory: Path) -> list[str] | None:
    """Label names in logit order from ``config.json``; None if it has none."""
    config = directory / "config.json"
    names = read_json(config).get("id2label") if config.is_file() else None
    if not names:
        return None
    try:
        labels = [names[key] for key in sorted(names, key=int)]
        sound = all(isinstance(label, str) for label in labels)
    except (TypeError, ValueError):
        labels, sound = [], False
    if not sound:
        raise InputError("id2label must be an object from logit number to name", config)
    return labels


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON ({error})", path) from None
    if not isinstance(data, dict):
        raise InputError("is not a JSON object", path)
    return data


def _pieces(model: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        raise InputError(f"is not a SentencePiece model ({error})", model) from None


def _tokenizer_json(directory: Path, config: dict[str, Any]) -> TokenizerSpec:
    """A fast tokenizer of Hugging Face (WordPiece and others): with the special tokens that it puts around a text."""
    file = directory / "tokenizer.json"
    tokenizers = optional_import("tokenizers", "tokenizers", f"a tokenizer in {file.name}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no class of its own
        raise InputError(f"is not a tokenizer ({error})", file) from None
    plain = tokenizer.encode("0", add_special_tokens=False).ids
    marked = tokenizer.encode("0").ids
    place = next((i for i in range(len(marked)) if marked[i : i + len(plain)] == plain), 0)

    def row(role: str, default: str) -> int:
        given = config.get(role, default)
        found = tokenizer.token_to_id(given["content"] if isinstance(given, dict) else str(given))
        if found is None and role != "mask_token":
            raise InputError(f"has no {role.replace('_', ' ')} {given!r}", file)
        return -1 if found is None else found

    return TokenizerSpec(
        kind="tokenizers",
        file=file.name,
        unk_id=row("unk_token", "[UNK]"),
        pad_id=row("pad_token", "[PAD]"),
        prefix=tuple(marked[:place]),
        suffix=tuple(marked[place + len(plain) :]),
        mask_id=row("mask_token", "[MASK]"),
    )


def _xlmr_pieces(model: Path) -> TokenizerSpec:
    """fairseq's layout: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, every other piece id + 1, ``<mask>`` last."""
    last = _pieces(model).get_piece_size()
    return TokenizerSpec("sentencepiece", model.name, 3, 1, (0,), (2,), offset=1, mask_id=last + 1)


def _bert_pieces(model: Path, lower: bool) -> TokenizerSpec:
    """tugstugi/mongolian-bert: piece ids are embedding rows, ``[CLS]`` and ``[SEP]`` are pieces, unknown is 0."""
    pieces = _pieces(model)

    def row(*names: str) -> int:
        found = [pieces.piece_to_id(name) for name in names if pieces.piece_to_id(name) != pieces.unk_id()]
        if not found:
            raise InputError(f"has no piece {names[0]}", model)
        return found[0]

    spec = TokenizerSpec(
        kind="sentencepiece",
        file=model.name,
        unk_id=pieces.unk_id(),
        pad_id=row("[PAD]", "<pad>"),
        prefix=(row("[CLS]"),),
        suffix=(row("[SEP]"),),
        mask_id=row("[MASK]"),
    )
    return replace(spec, normalise=("lower",)) if lower else spec
