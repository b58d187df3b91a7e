"""A base in the layout of mn-tweet-bert, from its old tensor names to scored rows: the logits of transformers."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from jirgee.bundle import Bundle
from jirgee.cli import main
from jirgee.scorer import softmax

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")


@pytest.fixture
def base(original_base, tmp_path):
    """Random weights, but so large that texts differ."""
    out = shutil.copytree(original_base, tmp_path / "base")
    state = torch.load(out / "pytorch_model.bin", weights_only=True)
    assert {"bert.embeddings.LayerNorm.gamma", "bert.pooler.dense.weight", "cls.seq_relationship.bias"} <= state.keys()
    for name, tensor in state.items():
        if tensor.dim() == 2 and "embeddings" not in name:
            tensor.mul_(5)
    torch.save(state, out / "pytorch_model.bin")
    return out


def test_an_old_base_trains_exports_and_scores(base, samples, tmp_path):
    import onnxruntime
    from sentencepiece import SentencePieceProcessor

    checkpoint, bundle, scored = (tmp_path / name for name in ("checkpoint", "bundle", "scored.csv"))
    training = ["--base", base, "--epochs", 1, "--learning-rate", "3e-3", "--max-tokens", 48]
    for words in (
        ["train", samples, "-o", checkpoint, *training, "--quiet"],
        ["export", checkpoint, "-o", bundle, "--recipe", "fp32", "--data", samples / "dev.tsv", "--quiet"],
        ["score", bundle, samples / "tweets.csv", "-o", scored, "--quiet"],
    ):
        assert main([str(word) for word in words]) == 0

    with scored.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))[:200]
    pieces = SentencePieceProcessor(model_file=str(base / "mn_uncased.model"))
    model = transformers.BertForSequenceClassification.from_pretrained(checkpoint).eval()
    loaded = Bundle.load(bundle)
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    expected, found = [], []
    for row in rows:
        ids = [pieces["[CLS]"], *pieces.encode(row["text"].lower())[:46], pieces["[SEP]"]]
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        with torch.inference_mode():
            expected.append(model(**inputs).logits[0].numpy())
        feed = {
            put.name: inputs[put.name].numpy().astype(np.int64 if "int64" in put.type else np.int32)
            for put in session.get_inputs()
        }
        found.append(session.run(None, feed)[0][0])
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-4
    probs = np.array([[float(row[f"p_{label}"]) for label in loaded.labels] for row in rows])
    assert np.abs(probs - softmax(np.array(expected) / loaded.temperature)).max() < 1e-4
    assert np.ptp(np.array(expected), axis=0).min() > 0.01, "a model that always says the same proves nothing"
