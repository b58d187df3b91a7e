"""Every row of the table: a tiny random model exports, fuses fully, and the bundle's arithmetic is the model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from jirgee.errors import GateError, InputError
from jirgee.tokens import Encoded
from jirgee_export.architectures import ARCHITECTURES, FUSED, for_export
from jirgee_export.calibrate import Calibration
from jirgee_export.graph import export_graph
from jirgee_export.graph_source import Source
from jirgee_export.lower import lower
from jirgee_export.optimise import count_operators, optimise
from jirgee_export.quantise import RECIPES

from .conftest import random_batch, run_graph, run_torch

SIZES: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 60,
    "pad_token_id": 3,
}
DISTIL: dict[str, Any] = {
    "vocab_size": 600,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 64,
    "max_position_embeddings": 60,
    "pad_token_id": 3,
}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "distilbert": DistilBertConfig(**DISTIL),
    "roberta": RobertaConfig(**SIZES),
    "xlm-roberta": XLMRobertaConfig(**SIZES, type_vocab_size=1),
    "camembert": CamembertConfig(**SIZES),
}


def tiny(kind: str) -> Any:
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[kind], attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(5 if parameter.dim() == 2 and "embeddings" not in name else 1)
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_every_row_is_tested():
    assert CONFIGS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_tiny_model_fuses_fully_and_stays_itself(tmp_path, kind):
    model = tiny(kind)
    exported = for_export(model)
    export_graph(exported, tmp_path / "graph.onnx")
    graph = optimise(tmp_path / "graph.onnx", exported.config)
    counts = count_operators(graph)
    # the last attention is computed for one query only
    assert {name: counts[name] for name in FUSED} == {name: of(2) for name, of in FUSED.items()} | {"Attention": 1}
    for rows, width in ((1, 2), (7, 20)):
        ids, mask = random_batch(rows, width)
        expected = run_torch(model, ids, mask)
        assert np.abs(run_graph(lower(graph), ids, mask) - expected).max() < 1e-5
    ids, mask = random_batch(16, 20)
    encoded = Encoded(ids[mask.astype(bool)].astype(np.int32), np.cumsum([0, *mask.sum(1)]), np.zeros(16, bool))
    stored = RECIPES["int8-static"].apply(Source(graph, Calibration(encoded, 3)))
    assert np.abs(run_graph(lower(stored), ids, mask) - run_torch(model, ids, mask)).mean() < 0.05


def test_an_unknown_architecture_is_named():
    model = AutoModelForSequenceClassification.from_config(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9))
    with pytest.raises(InputError, match="'gpt2' is not one that is exported: bert, electra"):
        for_export(model)


def test_what_is_not_fused_is_told(tmp_path):
    model = tiny("distilbert")
    export_graph(model, tmp_path / "graph.onnx")
    exported = for_export(model)
    with pytest.raises(GateError, match=r"not fully fused \(EmbedLayerNormalization 0 of 1, Attention 0 of 2\)"):
        optimise(tmp_path / "graph.onnx", exported.config)
