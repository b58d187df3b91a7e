"""Masked language modelling: which tokens are hidden, the model that guesses them, and its loss.

The scheme is BERT's (Devlin et al. 2019, arXiv:1810.04805): of 15 % of the tokens, 80 % become the mask token, 10 % a
random piece, 10 % stay. Masks are drawn anew for each batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, BertForMaskedLM, PreTrainedModel

from jirgee.errors import InputError
from jirgee.tokens import Encoded, TokenizerSpec

from .batches import tensors
from .model import fitted, load_classifier, original_config, read_original

IGNORED = -100  # the label of a token that is not asked for, as in transformers


def special_rows(spec: TokenizerSpec) -> np.ndarray:
    """Rows of the embedding table that no text's own piece has, and the unknown piece: never masked, never guessed."""
    return np.unique([spec.pad_id, spec.unk_id, spec.mask_id, *spec.prefix, *spec.suffix])


def mask_tokens(
    ids: np.ndarray, spec: TokenizerSpec, vocabulary: int, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels, int32 like ``ids`` (any shape); ``IGNORED`` where nothing is asked for.

    At least one token is chosen, if there is one that may be.
    """
    special = special_rows(spec)
    free = ~np.isin(ids, special)
    chosen = free & (rng.random(ids.shape) < share)
    if not chosen.any() and free.any():
        chosen.flat[rng.choice(np.flatnonzero(free))] = True
    fate = rng.random(ids.shape)
    others = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), special)
    inputs = np.where(chosen & (fate < 0.8), np.int32(spec.mask_id), ids)
    inputs = np.where(chosen & (fate >= 0.9), rng.choice(others, ids.shape), inputs)
    return inputs.astype(np.int32), np.where(chosen, ids, IGNORED).astype(np.int32)


def masked_batch(
    encoded: Encoded, rows: np.ndarray, spec: TokenizerSpec, vocabulary: int, share: float, rng: np.random.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Model inputs and labels int64 [len(rows), longest] of the given rows, newly masked."""
    batch = tensors(encoded, rows, spec.pad_id)
    inputs, labels = mask_tokens(batch["input_ids"].numpy().astype(np.int32), spec, vocabulary, share, rng)
    return {**batch, "input_ids": torch.from_numpy(inputs).long()}, torch.from_numpy(labels).long()


def guesses(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float32 [m, vocabulary] and rows int64 [m] of the m tokens asked for, on the model's device.

    Only they go through the head, which is as wide as the vocabulary.
    """
    hidden = model.base_model(**{name: value.to(model.device) for name, value in inputs.items()}).last_hidden_state
    labels = labels.to(model.device)
    asked = labels != IGNORED
    return head_of(model)(hidden[asked]).float(), labels[asked]


def head_of(model: Any) -> torch.nn.Module:
    """Hidden states [..., h] -> logits [..., vocabulary]."""
    return getattr(model, "cls", None) or model.lm_head


def load_masked_lm(directory: Path) -> tuple[PreTrainedModel, bool, dict[str, torch.Tensor]]:
    """The base with a head that guesses masked tokens, tied to the embeddings; whether that head is new; its pooler.

    The pooler, which masked language modelling does not use, is returned to be written beside the rest again.
    Raises InputError as ``load_classifier`` does, and for an architecture whose head is not BERT's or RoBERTa's.
    """
    classifier = load_classifier(directory, ["0", "1"])  # refuses a base whose encoder is not whole
    pooler = {name: tensor for name, tensor in classifier.state_dict().items() if "pooler" in name}
    del classifier
    if (directory / "config.json").is_file():
        try:
            model, info = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"cannot be loaded as a masked language model: {reason}", directory) from None
        new = any(name.startswith(("cls.", "lm_head.")) and "dense" in name for name in info["missing_keys"])
    else:
        path, found = read_original(directory)
        model = BertForMaskedLM(original_config(directory))
        model.load_state_dict(fitted(found, model.state_dict(), path))
        model.tie_weights()
        new = not any(name.startswith("cls.predictions.transform.") for name in found)
    if not (hasattr(model, "cls") or hasattr(model, "lm_head")):
        raise InputError(f"adapt knows the heads of BERT and RoBERTa, not of {model.config.model_type}", directory)
    model.config.tie_word_embeddings = True
    return model, new, pooler


def open_head(model: PreTrainedModel, frequency: np.ndarray) -> None:
    """Start a new head where it does least harm: the transform as the identity, small logits, and as bias the log of
    each piece's ``frequency`` (int [vocabulary]), so that the first guess is already as good as counting."""
    head: Any = head_of(model)
    inner = head.predictions.transform if hasattr(head, "predictions") else head
    norm = inner.LayerNorm if hasattr(inner, "LayerNorm") else inner.layer_norm
    bias = head.predictions.bias if hasattr(head, "predictions") else head.bias
    rows: Any = model.get_input_embeddings().weight
    with torch.no_grad():
        torch.nn.init.eye_(inner.dense.weight)
        inner.dense.bias.zero_()
        norm.weight.fill_(0.3 / max(float(rows.norm(dim=1).square().mean().sqrt()), 1e-6))
        norm.bias.zero_()
        bias.copy_(torch.from_numpy(np.log((frequency + 0.1) / (frequency + 0.1).sum())).float())
