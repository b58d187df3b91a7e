"""Integrated gradients: what is attributed adds up to what is to be explained."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jirgee.checkpoint import read_settings
from jirgee.errors import InputError
from jirgee_train.attribution import integrated_gradients, log_odds, masked
from jirgee_train.batches import load_tokenizer
from jirgee_train.model import load_classifier


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    settings = read_settings(tiny_checkpoint)
    model = load_classifier(tiny_checkpoint, ["comedian", "commentator"])
    return model, settings.tokenizer, load_tokenizer(settings, tiny_checkpoint)


def test_attributions_sum_to_the_difference_of_the_log_odds(tiny, texts):
    model, spec, tokenizer = tiny
    for text in texts[:4]:
        ids = tokenizer.encode([text]).ids
        found = integrated_gradients(model, ids, spec, label=1, steps=60)
        with torch.no_grad():
            ends = [model(input_ids=torch.from_numpy(row[None]).long()).logits[0] for row in (ids, masked(ids, spec))]
        difference = float((ends[0][1] - ends[0][0]) - (ends[1][1] - ends[1][0]))
        assert abs(difference) > 0.05, "nothing to explain"
        assert found.tokens.sum() == pytest.approx(difference, abs=0.02 * max(1, abs(difference)))
        assert found.gap == pytest.approx(abs(found.tokens.sum() - difference), abs=1e-4)
        assert len(found.tokens) == len(ids)
        assert found.tokens[0] == found.tokens[-1] == 0, "special tokens are the same at both ends"
        assert np.abs(found.tokens).max() > 0.01


def test_more_steps_close_the_gap_and_batches_change_nothing(tiny, texts):
    model, spec, tokenizer = tiny
    ids = tokenizer.encode([texts[1]]).ids
    few, many = (integrated_gradients(model, ids, spec, 0, steps) for steps in (2, 60))
    assert many.gap < few.gap
    apart = integrated_gradients(model, ids, spec, 0, steps=60, budget=1)
    assert apart.tokens == pytest.approx(many.tokens, abs=1e-4)
    other = integrated_gradients(model, ids, spec, 1, steps=60)
    assert other.tokens == pytest.approx(-many.tokens, abs=1e-4)  # two classes: one's log-odds are minus the other's
    assert all(parameter.grad is None for parameter in model.parameters())


def test_log_odds_of_three_classes():
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    p = logits.softmax(dim=-1)[0, 1]
    assert float(log_odds(logits, 1)[0]) == pytest.approx(float(torch.log(p / (1 - p))), abs=1e-6)


def test_a_tokenizer_without_a_mask_is_refused(tiny, texts):
    model, spec, tokenizer = tiny
    with pytest.raises(InputError, match="this tokenizer has none"):
        integrated_gradients(model, tokenizer.encode(texts[:1]).ids, replace(spec, mask_id=-1), 0)
