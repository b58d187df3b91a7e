"""The gate's arithmetic, and that a comparison measures what it says."""

import numpy as np
import pytest

from jirgee.bundle import Bundle
from jirgee.checkpoint import read_settings
from jirgee.scorer import Scorer
from jirgee_export.effects import Effect
from jirgee_export.reference import reference_probs
from jirgee_export.verify import Comparison, Limits, compare


def compared(texts, flips=0, accuracy=None):
    return Comparison(texts, flips, 0.0, 0.0, accuracy=accuracy)


@pytest.mark.parametrize(
    ("texts", "flips", "limits", "passes"),
    [
        (1000, 10, Limits(max_flips=1), True),  # 1 % is the limit itself
        (1000, 11, Limits(max_flips=1), False),
        (1000, 50, Limits(max_flips=5), True),
        (1000, 51, Limits(max_flips=5), False),
        (180, 3, Limits(max_flips=1), True),  # 1 % of 180 is less than two: chance alone would refuse a good bundle
        (180, 4, Limits(max_flips=1), False),
        (100, 2, Limits(max_flips=1), True),
        (100, 3, Limits(max_flips=1), False),
        (20, 1, Limits(max_flips=1), True),  # one text is always allowed: 5 % of twenty
        (20, 2, Limits(max_flips=1), False),
        (20, 1, Limits(max_flips=0), True),
        (20, 2, Limits(max_flips=0), False),
        (3, 1, Limits(max_flips=1), True),
        (3, 0, Limits(max_flips=0), True),
    ],
)
def test_the_limit_on_flips(texts, flips, limits, passes):
    failures = compared(texts, flips).failures(limits)
    assert (failures == []) == passes
    if not passes:
        assert failures[0].startswith(f"{flips} of {texts} labels flip, {100 * flips / texts:.2f} % (limit ")


@pytest.mark.parametrize(
    ("texts", "right", "limits", "passes"),
    [
        (1000, (900, 895), Limits(max_flips=1), True),  # half a point is the limit itself
        (1000, (900, 894), Limits(max_flips=1), False),
        (1000, (900, 880), Limits(max_drop=2), True),
        (50, (45, 44), Limits(max_flips=1), True),  # one text is always allowed: two points of fifty
        (50, (45, 43), Limits(max_flips=1), False),
        (50, (45, 44), Limits(max_drop=0), True),
        (50, (40, 50), Limits(max_drop=0), True),
    ],
)
def test_the_limit_on_accuracy(texts, right, limits, passes):
    failures = compared(texts, accuracy=(right[0] / texts, right[1] / texts)).failures(limits)
    assert (failures == []) == passes
    if not passes:
        assert failures[0].startswith(f"accuracy drops {100 * (right[0] - right[1]) / texts:.2f} points (limit ")
        assert "--max-drop" in failures[0]


def test_both_limits_are_reported():
    assert len(compared(100, 50, (0.9, 0.5)).failures(Limits(max_flips=1))) == 2


@pytest.mark.parametrize(("change", "passes"), [(0.02, True), (0.021, False)])
def test_the_limit_on_what_batch_mates_do(change, passes):
    effects = {"alone": Effect(0.001, 0), "wide": Effect(change, 1)}
    failures = Comparison(100, 0, 0.0, 0.0, effects).failures(Limits(max_batch_effect=0.02))
    assert (failures == []) == passes
    if not passes:
        assert failures == ["scored in a wide batch a probability changes by 0.021 (limit 0.02: --max-batch-effect)"]


def test_the_reference_is_pytorch_one_text_at_a_time(tiny_checkpoint, tiny_model, texts):
    settings = read_settings(tiny_checkpoint)
    together = reference_probs(tiny_model, settings, tiny_checkpoint, texts)
    alone = np.concatenate([reference_probs(tiny_model, settings, tiny_checkpoint, [text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_compare_counts_flips_changes_and_accuracy(tiny_bundle, tiny_checkpoint, tiny_model, texts):
    bundle, settings = Bundle.load(tiny_bundle), read_settings(tiny_checkpoint)
    reference = reference_probs(tiny_model, settings, tiny_checkpoint, texts)
    scorer = Scorer.load(bundle, "cpu")
    same = compare(scorer, texts, reference, reference.argmax(axis=1))
    assert (same.texts, same.flips, same.accuracy) == (60, 0, (1.0, 1.0))
    assert same.max_change < 1e-4
    assert same.batch_effect < 1e-4

    turned = reference.copy()
    turned[:7] = turned[:7, ::-1]
    other = compare(scorer, texts, turned, turned.argmax(axis=1))
    assert other.flips == 7
    assert other.accuracy == (1.0, pytest.approx(53 / 60))
    assert other.drop == pytest.approx(700 / 60)
    assert other.max_change == pytest.approx(np.abs(turned - reference).max(), abs=1e-4)
    assert compare(scorer, texts, turned, None).accuracy is None
    scorer.close()
