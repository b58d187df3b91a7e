"""Where a checkpoint comes from: a directory of ours, any other of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from jirgee.checkpoint import Settings, read_labels, read_settings
from jirgee.errors import InputError

from .graph import load_model


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


def open_checkpoint(given: Path | str, labels: Sequence[str] = ()) -> Checkpoint:
    """Open ``given``, a directory. ``labels``: class names to use instead of the checkpoint's own."""
    path = Path(given)
    settings = read_settings(path)
    model = load_model(path)
    count = model.config.num_labels
    names = list(labels) or read_labels(path) or [f"LABEL_{i}" for i in range(count)]
    if len(names) != count:
        raise InputError(f"its classifier has {count} labels, not the {len(names)} of --labels", path)
    return Checkpoint(path, path.name, settings, model, names)
