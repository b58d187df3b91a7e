"""A hybrid from training to scores: the bundle says what encoder, n-grams and mix say together."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jirgee
from jirgee.bundle import NGRAMS
from jirgee.checkpoint import read_settings
from jirgee.cli import main
from jirgee.labelled import read_labelled
from jirgee.ngrams import NgramModel
from jirgee.scorer import softmax


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, original_base, samples):
    out = tmp_path_factory.mktemp("hybrid") / "checkpoint"
    words = ["train", samples, "-o", out, "--base", original_base, "--epochs", 1, "--max-tokens", 48, "--ngrams", 14]
    assert main([*map(str, words), "--quiet"]) == 0
    return out


def test_the_mix_is_better_than_an_untrained_encoder(checkpoint):
    results = json.loads((checkpoint / "eval_results.json").read_text(encoding="utf-8"))
    assert results["ngrams"]["accuracy"] > 0.8
    assert results["hybrid"]["accuracy"] == results["accuracy"] > results["encoder"]["accuracy"]
    assert results["ngram_weight"] > 0


@pytest.mark.parametrize("name", ["bundle", "bundle.jirgee"])
def test_the_bundle_scores_the_mix(checkpoint, samples, tmp_path, name):
    from jirgee_train.batches import predict
    from jirgee_train.model import load_classifier

    words = ["export", checkpoint, "-o", tmp_path / name, "--recipe", "fp32", "--data", samples / "dev.tsv"]
    assert main([*map(str, words), "--quiet"]) == 0
    rows, settings = read_labelled(samples / "dev.tsv"), read_settings(checkpoint)
    logits = predict(load_classifier(checkpoint, ["comedian", "commentator"]), settings, checkpoint, rows.texts)
    ngrams = NgramModel.from_bytes((checkpoint / NGRAMS).read_bytes(), 2)
    expected = softmax(logits / settings.temperature + settings.ngram_weight * ngrams.logits(rows.texts))
    with jirgee.Scorer.load(tmp_path / name) as scorer:
        found = scorer.score(rows.texts)
        alone = np.concatenate([scorer.score([text]).probs for text in rows.texts[:20]])
    assert np.abs(found.probs - expected).max() < 1e-4
    assert np.abs(found.probs[:20] - alone).max() < 1e-4
    assert np.mean([a == b for a, b in zip(found.labels, rows.labels, strict=True)]) > 0.8


def test_a_hybrid_without_its_ngrams_is_refused(checkpoint, samples, tmp_path):
    import shutil

    main([*map(str, ["export", checkpoint, "-o", tmp_path / "bundle", "--recipe", "fp32"]), "--quiet"])
    (tmp_path / "bundle" / NGRAMS).unlink()
    with pytest.raises(jirgee.BundleError, match=NGRAMS):
        jirgee.Bundle.load(tmp_path / "bundle")
    shutil.copytree(checkpoint, tmp_path / "checkpoint", ignore=shutil.ignore_patterns(NGRAMS))
    assert main([*map(str, ["export", tmp_path / "checkpoint", "-o", tmp_path / "other"]), "--quiet"]) == 1
