"""What a trained checkpoint tells its student: soft labels, hidden states, and the weights to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from jirgee.bundle import NGRAMS
from jirgee.checkpoint import Settings, read_json, read_settings
from jirgee.errors import BundleError, InputError
from jirgee.ngrams import NgramModel

from .calibrate import mixed
from .model import load_classifier


@dataclass(frozen=True)
class Teacher:
    """A checkpoint opened for teaching. ``ngrams``: of a hybrid, else None."""

    directory: Path
    model: PreTrainedModel
    settings: Settings
    ngrams: NgramModel | None

    @classmethod
    def load(cls, directory: Path, classes: list[str]) -> Teacher:
        """Raises InputError if the directory holds no trained classifier, or a hybrid without its n-grams."""
        kinds = read_json(directory / "config.json").get("architectures") or [""]
        if not kinds[0].endswith("ForSequenceClassification"):
            raise InputError("is a base, not a trained classifier: it has no head; run jirgee train first", directory)
        settings, ngrams = read_settings(directory), None
        if settings.ngram_weight:
            try:
                ngrams = NgramModel.from_bytes((directory / NGRAMS).read_bytes(), len(classes))
            except FileNotFoundError:
                raise InputError(f"is a hybrid, but its {NGRAMS} is missing; train it again", directory) from None
            except BundleError as error:
                raise InputError(str(error), directory / NGRAMS) from None
        model = load_classifier(directory, classes)
        layers_of(model, directory)
        return cls(directory, model.eval().requires_grad_(False), settings, ngrams)

    def ngram_logits(self, texts: Sequence[str]) -> np.ndarray | None:
        return self.ngrams.logits(texts) if self.ngrams and len(texts) else None

    def mixed(self, logits: np.ndarray, ngram_logits: np.ndarray | None) -> np.ndarray:
        """The logits float32 [n, k] of the probabilities that the checkpoint's bundle would give."""
        return mixed(logits, ngram_logits, self.settings.temperature, self.settings.ngram_weight).astype(np.float32)


def layers_of(model: PreTrainedModel, directory: Path) -> torch.nn.ModuleList:
    """The encoder's layers. Raises InputError for an architecture that shares or hides them."""
    encoder = getattr(model.base_model, "encoder", None)
    layers = getattr(encoder, "layer", None)
    if not isinstance(layers, torch.nn.ModuleList) or not hasattr(model.config, "num_hidden_layers"):
        raise InputError(f"distill knows encoders of BERT's form, not {model.config.model_type}", directory)
    return layers


def start_layers(teacher: int, student: int) -> list[int]:
    """Which of the teacher's layers each of the student's starts from: evenly spread, the first and the last among
    them."""
    return [round(at) for at in np.linspace(0, teacher - 1, student)] if student > 1 else [0]


def matched_states(teacher: int, student: int) -> list[int]:
    """Which hidden state of the teacher (0: the embeddings) each of the student's layers is to give: evenly spread, the
    last one last."""
    return [round((at + 1) * teacher / student) for at in range(student)]


def make_student(teacher: Teacher, layers: int) -> PreTrainedModel:
    """The teacher's embeddings, head and ``layers`` of its layers. Raises InputError if it has not so many."""
    own = layers_of(teacher.model, teacher.directory)
    if layers > len(own):
        raise InputError(f"has {len(own)} layers, fewer than --layers {layers}", teacher.directory)
    config: Any = type(teacher.model.config).from_dict({**teacher.model.config.to_dict(), "num_hidden_layers": layers})
    student = type(teacher.model)(config)
    kept = [name for name in teacher.model.state_dict() if ".encoder.layer." not in name]
    state = teacher.model.state_dict()
    student.load_state_dict({name: state[name] for name in kept}, strict=False)
    for layer, source in zip(layers_of(student, teacher.directory), start_layers(len(own), layers), strict=True):
        layer.load_state_dict(own[source].state_dict())
    return student


def operations(config: Any, tokens: float) -> float:
    """Multiply-adds of the encoder's layers for a text of ``tokens``: projections, feed-forward and attention, without
    embeddings and head."""
    width, inner = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * tokens * (4 * width**2 + 2 * width * inner + 2 * tokens * width)
