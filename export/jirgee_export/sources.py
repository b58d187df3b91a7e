"""Where a checkpoint comes from: any Hugging Face directory, a hub id, or mn-tweet-bert's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from jirgee.bench import probe_texts
from jirgee.checkpoint import Settings, read_json, read_labels, read_settings
from jirgee.errors import InputError, optional_import
from jirgee.labelled import find_split, read_labelled

from .graph import load_model

HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
RENAMED = ((".gamma", ".weight"), (".beta", ".bias"))  # names of older checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A model to export, opened. ``path``: its directory. ``name``: as the user gave it, for people. ``labels``: class
    names in logit order.
    """

    path: Path
    name: str
    settings: Settings
    model: PreTrainedModel
    labels: list[str]

    @property
    def tokenizer(self) -> bytes:
        return (self.path / self.settings.tokenizer.file).read_bytes()

    def probes(self, count: int) -> list[str]:
        """``count`` texts of random pieces, the same on every call."""
        if self.settings.tokenizer.kind == "sentencepiece":
            return probe_texts(self.tokenizer, count)
        tokenizer = optional_import("tokenizers", "tokenizers", "this tokenizer").Tokenizer.from_buffer(self.tokenizer)
        rng = np.random.default_rng(1)
        size = tokenizer.get_vocab_size()
        return [tokenizer.decode(rng.integers(0, size, rng.integers(3, 60)).tolist()) for _ in range(count)]


def open_checkpoint(given: Path | str, labels: Sequence[str] = (), data: Path | None = None) -> Checkpoint:
    """Open ``given``: a directory, or a hub id (owner/name), which is downloaded.

    ``labels``: class names to use instead of the checkpoint's own. A directory in the layout of mn-tweet-bert has none:
    there they are the sorted labels of its train.tsv or dev.tsv, or of ``data``. Raises InputError.
    """
    path = Path(given) if Path(given).is_dir() else _download(str(given))
    settings = read_settings(path)
    original = not (path / "config.json").is_file() and (path / "bert_config.json").is_file()
    model = _load_original(path, settings) if original else load_model(path)
    settings = replace(settings, max_tokens=min(settings.max_tokens, _positions(model)))
    count = model.config.num_labels
    names = list(labels) or read_labels(path) or (_labels_of(path, data) if original else [])
    names = names or [f"LABEL_{i}" for i in range(count)]
    if len(names) != count or len(set(names)) != count:
        raise InputError(
            f"its classifier tells {count} labels apart, and these are given: {', '.join(names)}; "
            "name them in logit order: --labels A,B",
            path,
        )
    return Checkpoint(path, path.name, settings, model, names)


def _positions(model: PreTrainedModel) -> int:
    """The longest encoding that the model has positions for; RoBERTa's begin behind the row of the padding."""
    config = model.config
    first = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type or config.model_type == "camembert" else 0
    return config.max_position_embeddings - first


def _labels_of(path: Path, data: Path | None) -> list[str]:
    file = data or find_split(path, "train") or find_split(path, "dev")
    return sorted(set(read_labelled(file).labels)) if file else []


def _load_original(directory: Path, settings: Settings) -> PreTrainedModel:
    """``pytorch_model.bin`` beside ``bert_config.json``: a fine-tuned BERT under the tensor names of its time."""
    weights = directory / "pytorch_model.bin"
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
        state = {}
        for name, tensor in found.items():
            for old, new in RENAMED:
                name = name.removesuffix(old) + new if name.endswith(old) else name
            state[name] = tensor
        count = len(state["classifier.weight"])
    except KeyError:
        raise InputError(
            f"has no classifier: it is a base; train it first: jirgee train DATA --base {directory} -o CHECKPOINT",
            weights,
        ) from None
    except Exception as error:  # zipfile, pickle and runtime errors: whatever an alien file provokes
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot be read as PyTorch weights ({reason})", weights) from None
    config = {"pad_token_id": settings.tokenizer.pad_id, **read_json(directory / "bert_config.json")}
    model = BertForSequenceClassification(BertConfig(**config, num_labels=count, attn_implementation="eager"))
    try:
        lacking = model.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        raise InputError(f"does not fit bert_config.json: {str(error).splitlines()[-1].strip()}", weights) from None
    if lacking:
        raise InputError(f"lacks {lacking[0]}", weights)
    return model.eval()


def _download(repo_id: str) -> Path:
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise InputError("no such directory, and not a hub id (owner/name)", repo_id)
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(repo_id, allow_patterns=list(HUB_FILES)))
        if not list(directory.glob("*.safetensors")):  # an older repository, with weights in PyTorch's own format alone
            snapshot_download(repo_id, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"])
    except Exception as error:  # the hub's, the network's and the disk's errors
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"cannot be had from the hub ({reason}); is it a directory that is not there? Or download it elsewhere and "
            "give its directory; a private one needs HF_TOKEN",
            repo_id,
        ) from None
    return directory
