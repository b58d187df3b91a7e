"""A checkpoint opened for export, and its plain ONNX graph: any batch, any length, PyTorch's probs."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from jirgee.errors import InputError
from jirgee_export.graph import export_graph, load_model

from .conftest import random_batch, run_graph, run_torch


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 48), (7, 3), (33, 20)])
def test_the_graph_gives_pytorch_s_probabilities_for_any_batch_and_length(plain_graph, tiny_model, rows, width):
    ids, mask = random_batch(rows, width)
    probs = run_graph(plain_graph, ids, mask)
    assert probs.shape == (rows, 2)
    assert np.abs(probs - run_torch(tiny_model, ids, mask)).max() < 1e-5


def test_the_model_is_loaded_in_float_for_inference(tiny_model):
    assert not tiny_model.training
    assert {str(parameter.dtype) for parameter in tiny_model.parameters()} == {"torch.float32"}


def refuse(directory, *words):
    with pytest.raises(InputError) as caught:
        load_model(directory)
    message = str(caught.value)
    assert message.startswith(f"{directory}: ")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_directory_that_is_no_checkpoint_says_how_one_is_made(tmp_path, original_base):
    refuse(tmp_path, "has no config.json", "jirgee train DATA -o CHECKPOINT")
    refuse(original_base, "has no config.json", "jirgee train DATA")


def test_a_base_without_a_classifier_says_how_to_train_it(tmp_path):
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path)
    refuse(tmp_path, "classifier", "not a fine-tuned classifier", f"jirgee train DATA --base {tmp_path} -o CHECKPOINT")


def test_damaged_weights_and_a_wrong_config_are_refused(tmp_path, tiny_checkpoint):
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    refuse(checkpoint, "cannot be loaded as a model")
    (checkpoint / "config.json").write_text(json.dumps(config))
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[:500])
    refuse(checkpoint, "cannot be loaded as a model")
    (checkpoint / "model.safetensors").unlink()
    refuse(checkpoint, "cannot be loaded as a model")


def test_an_architecture_without_an_exporter_is_named(tmp_path, tiny_model):
    class Odd:
        config = type("Config", (), {"model_type": "odd"})()

    with pytest.raises(InputError, match="the architecture 'odd' has no ONNX exporter"):
        export_graph(Odd(), tmp_path / "graph.onnx")  # type: ignore[arg-type]
