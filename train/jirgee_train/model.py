"""A base directory -> a BERT with a classification head; and back to a checkpoint directory.

The head is the one of ``transformers``' sequence classification: first token, pooler, linear. Every Hugging Face tool
opens the result. mn-tweet-bert's own layout (``bert_config.json`` + ``pytorch_model.bin``) is read as it is.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from jirgee.checkpoint import SETTINGS, Settings, read_json, read_settings
from jirgee.errors import InputError

# Names that older checkpoints gave to the same tensors.
RENAMED = ((".gamma", ".weight"), (".beta", ".bias"))
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "added_tokens.json",
    "vocab.txt",
)
ALBERT_TOKENIZER = {
    "tokenizer_class": "AlbertTokenizer",
    "keep_accents": True,
    "remove_space": True,
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
    "unk_token": "<unk>",
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "model_max_length": 512,
}


def load_classifier(directory: Path, classes: list[str]) -> PreTrainedModel:
    """The encoder of ``directory`` with a head of ``len(classes)`` logits; a head that fits is kept, else made anew.

    Raises InputError if the weights are not there or are not this architecture's.
    """
    names: dict[str, Any] = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    if not (directory / "config.json").is_file():
        return _load_original(directory, names)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            directory,
            num_labels=len(classes),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **names,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot be loaded as a model: {str(error).splitlines()[0]}", directory) from None
    if missing := [name for name in info["missing_keys"] if not is_head(name)]:
        raise InputError(f"its weights lack {missing[0]} and {len(missing) - 1} more", directory)
    if wrong := [name for name in info["mismatched_keys"] if not is_head(name)]:
        wanted = list(model.state_dict()[wrong[0]].shape)
        raise InputError(f"{wrong[0]} of its weights has not the shape that config.json says: {wanted}", directory)
    if any("pooler" in name for name in info["missing_keys"]):
        _open_pooler(model)
    return model


def position_limit(directory: Path) -> int:
    """The longest encoding that the base has positions for."""
    name = "config.json" if (directory / "config.json").is_file() else "bert_config.json"
    config = read_json(directory / name)
    # RoBERTa's positions start behind the padding row.
    offset = config.get("pad_token_id", 0) + 1 if config.get("model_type") in ("roberta", "xlm-roberta") else 0
    return config.get("max_position_embeddings", 512) - offset


def is_head(name: str) -> bool:
    """Whether a tensor belongs to what stands on top of the encoder."""
    return name.startswith(("classifier", "pre_classifier", "cls.", "lm_head.")) or "pooler" in name


def _open_pooler(model: PreTrainedModel) -> None:
    """Start a pooler that the base does not have as the identity: the first token's vector passes (through tanh)."""
    for name, parameter in model.named_parameters():
        if name.endswith("pooler.dense.weight"):
            with torch.no_grad():
                torch.nn.init.eye_(parameter)


def _load_original(directory: Path, names: dict[str, Any]) -> PreTrainedModel:
    path, found = read_original(directory)
    model = BertForSequenceClassification(original_config(directory, **names))
    model.load_state_dict(fitted(found, model.state_dict(), path))
    return model


def original_config(directory: Path, **names: Any) -> BertConfig:
    """The configuration of mn-tweet-bert's layout."""
    pad = read_settings(
        directory
    ).tokenizer.pad_id  # transformers would take row 0, the unknown piece, and never train it
    return BertConfig(**{"pad_token_id": pad, **read_json(directory / "bert_config.json")}, **names)


def read_original(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The weight file of mn-tweet-bert's layout and what it holds by name. Raises InputError."""
    weights = directory / "pytorch_model.bin"
    if not weights.is_file():
        if list(directory.glob("*.ckpt*")) or (directory / "checkpoint").is_file():
            raise InputError(
                "holds a TensorFlow checkpoint; convert it first, where tensorflow is installed: transformers-cli "
                f"convert --model_type bert --tf_checkpoint {directory}/bert_model.ckpt "
                f"--config {directory}/bert_config.json --pytorch_dump_output {weights}",
                directory,
            )
        raise InputError("has no pytorch_model.bin beside bert_config.json", directory)
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and runtime errors: whatever an alien file provokes
        raise InputError(f"is not a PyTorch weight file ({str(error).splitlines()[0]})", weights) from None
    if not isinstance(found, dict):
        raise InputError(f"holds a {type(found).__name__}, not tensors by name", weights)
    return weights, found


def fitted(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """``found`` under the names and shapes of ``wanted``; only a head may be missing, and keeps its first values."""
    renamed = {}
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        for old, new in RENAMED:
            name = name.removesuffix(old) + new if name.endswith(old) else name
        renamed[name if name.startswith(("bert.", "classifier.", "cls.")) else f"bert.{name}"] = tensor
    result = {}
    for name, tensor in wanted.items():
        candidate = renamed.get(name)
        if candidate is not None and candidate.shape == tensor.shape:
            result[name] = candidate
        elif is_head(name):
            result[name] = tensor
        elif candidate is None:
            raise InputError(f"lacks {name}", path)
        else:
            raise InputError(
                f"{name} has shape {list(candidate.shape)} where bert_config.json says {list(tensor.shape)}",
                path,
            )
    return result


def save_checkpoint(model: PreTrainedModel, base: Path, settings: Settings, out: Path) -> None:
    """Write the model, the base's tokenizer and ``settings`` into the existing directory ``out``."""
    model.save_pretrained(out, safe_serialization=True)
    tokenizer = settings.tokenizer
    if (base / "tokenizer_config.json").is_file():
        for name in (tokenizer.file, *TOKENIZER_FILES):
            if (base / name).is_file():
                shutil.copyfile(base / name, out / name)
    else:
        # mn-tweet-bert's layout has no Hugging Face tokenizer; this is the form in which the hub carries its model.
        tokenizer = replace(tokenizer, file="spiece.model")
        shutil.copyfile(base / settings.tokenizer.file, out / tokenizer.file)
        config = {**ALBERT_TOKENIZER, "do_lower_case": "lower" in tokenizer.normalise}
        (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    replace(settings, tokenizer=tokenizer).write(out)
    mode = (out / SETTINGS).stat().st_mode
    for path in out.iterdir():  # safetensors writes for the owner alone; all files get what the umask gives
        path.chmod(mode)
