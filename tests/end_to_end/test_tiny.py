import numpy as np

import jirgee


def test_tiny_bundle_scores_as_pytorch(tiny_checkpoint, tiny_bundle, texts):
    from jirgee.checkpoint import read_settings
    from jirgee_export.graph import load_model
    from jirgee_export.reference import reference_probs

    settings = read_settings(tiny_checkpoint)
    expected = reference_probs(load_model(tiny_checkpoint), settings, tiny_checkpoint, texts)
    with jirgee.Scorer.load(tiny_bundle) as scorer:
        scores = scorer.score(texts)
    assert np.abs(scores.probs - expected).max() < 1e-4
    assert len(set(scores.labels)) == 2, "a model that always says the same proves nothing"
