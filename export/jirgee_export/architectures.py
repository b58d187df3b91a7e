"""The architectures that are exported, one row each, and what their graphs hold when they are fully fused.

DistilBERT and (XLM-)RoBERTa compute what a BERT computes, under other names and with positions counted from another
row; onnxruntime's optimiser knows only a BERT's graph. Their weights are put into a BERT, which is exact for texts
padded on the right; the gate holds the result against the model as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from jirgee.errors import InputError

# operator -> how many a BERT of n layers has when all of it is fused
FUSED: dict[str, Callable[[int], int]] = {
    "EmbedLayerNormalization": lambda layers: 1,
    "Attention": lambda layers: layers,
    "SkipLayerNormalization": lambda layers: 2 * layers,
    "BiasGelu": lambda layers: layers,
}


@dataclass(frozen=True)
class Architecture:
    """``exported``: the model -> the one whose graph is exported, and fuses to the counts of FUSED."""

    exported: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model


def for_export(model: PreTrainedModel) -> PreTrainedModel:
    """The model whose graph stands for ``model``. Raises InputError for an architecture that is not in the table."""
    kind = model.config.model_type
    if kind not in ARCHITECTURES:
        raise InputError(f"the architecture {kind!r} is not one that is exported: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[kind].exported(model).eval()


def _from_distilbert(model: PreTrainedModel) -> PreTrainedModel:
    config = model.config
    names = (
        (r"^distilbert\.transformer", "bert.encoder"),
        (r"^distilbert\.", "bert."),
        (r"attention\.q_lin", "attention.self.query"),
        (r"attention\.k_lin", "attention.self.key"),
        (r"attention\.v_lin", "attention.self.value"),
        (r"attention\.out_lin", "attention.output.dense"),
        (r"sa_layer_norm", "attention.output.LayerNorm"),
        (r"ffn\.lin1", "intermediate.dense"),
        (r"ffn\.lin2", "output.dense"),
        (r"output_layer_norm", "output.LayerNorm"),
        (r"^pre_classifier", "bert.pooler.dense"),
    )
    sizes = {
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.hidden_dim,
        "hidden_act": config.activation,
        "max_position_embeddings": config.max_position_embeddings,
    }
    bert = _bert(model, sizes, names, model.state_dict())
    cast(Any, bert).bert.pooler.activation = torch.nn.ReLU()
    return bert


def _from_roberta(model: PreTrainedModel) -> PreTrainedModel:
    config = model.config
    names = (
        (r"^roberta\.", "bert."),
        (r"^classifier\.dense", "bert.pooler.dense"),
        (r"^classifier\.out_proj", "classifier"),
    )
    first = (config.pad_token_id or 0) + 1  # the row of the first position
    state, place = model.state_dict(), "roberta.embeddings.position_embeddings.weight"
    state[place] = state[place][first:]
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    sizes = {name: getattr(config, name) for name in same}
    return _bert(model, sizes | {"max_position_embeddings": len(state[place])}, names, state)


def _bert(model: PreTrainedModel, sizes: dict, names: tuple[tuple[str, str], ...], state: dict) -> PreTrainedModel:
    """A BERT of ``sizes`` with the tensors of ``state``, renamed by the patterns of ``names`` in their order."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    segments = "bert.embeddings.token_type_embeddings.weight"
    first = renamed[segments][:1] if segments in renamed else torch.zeros(1, sizes["hidden_size"])
    renamed[segments] = first.repeat(2, 1)  # only segment 0 is ever used; the exporter traces two
    config = model.config
    bert = BertForSequenceClassification(
        BertConfig(
            vocab_size=config.vocab_size,
            pad_token_id=config.pad_token_id or 0,
            type_vocab_size=2,
            layer_norm_eps=getattr(config, "layer_norm_eps", 1e-12),
            num_labels=config.num_labels,
            attn_implementation="eager",
            **sizes,
        )
    )
    lacking, _ = bert.load_state_dict(renamed, strict=False)
    if lacking := [name for name in lacking if not name.endswith("position_ids")]:
        raise InputError(f"its {config.model_type} has no tensor for {lacking[0]}")
    return bert


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(),
    "electra": Architecture(),
    "distilbert": Architecture(_from_distilbert),
    "roberta": Architecture(_from_roberta),
    "xlm-roberta": Architecture(_from_roberta),
    "camembert": Architecture(_from_roberta),
}
