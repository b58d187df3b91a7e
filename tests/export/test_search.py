"""What stays in float is what costs most for its work, and no more than the budget."""

from __future__ import annotations

import numpy as np
import pytest

from jirgee_export import search
from jirgee_export.products import Form, Product, products, rewrite
from jirgee_export.report_page import pareto

FORM = Form("int7", "token")


def product(name: str) -> Product:
    return Product(name, "MatMul", "x", "w", 1)


FOUND = [product(name) for name in "abcd"]
SHARES = {"a": 0.5, "b": 0.1, "c": 0.1, "d": 0.001}


@pytest.mark.parametrize(
    ("costs", "budget", "kept"),
    [
        ({"a": 9.0, "b": 3.0, "c": 1.0, "d": 1.0}, 0.21, {"b", "c", "d"}),  # a saves most and does not fit
        ({"a": 9.0, "b": 3.0, "c": 1.0, "d": 1.0}, 0.601, {"d", "b", "a"}),
        ({"a": 0.1, "b": 9.9, "c": 0.0, "d": 0.0}, 1.0, {"b"}),  # the rest is not worth float
        ({"a": 9.0, "b": 3.0, "c": 1.0, "d": 1.0}, 0.0, set()),
    ],
)
def test_the_choice_is_greedy_by_error_saved_per_work(costs, budget, kept):
    assert search.choose(FOUND, costs, SHARES, budget) == kept


def test_every_product_is_measured_alone(source):
    costs = search.sensitivities(source.fused, source.calibration, FORM)
    assert costs.keys() == {product.node for product in products(source.fused)}
    assert all(cost >= 0 for cost in costs.values())
    assert max(costs.values()) > 0
    shares = search.work_shares(source.fused, source.calibration)
    assert sum(shares.values()) == pytest.approx(1)


def test_what_is_kept_in_float_is_within_the_budget_and_lowers_the_error(source):
    forms = search.mixed_forms(source, 0.5, FORM)
    model, calibration = source.smoothed(0.5), source.calibration
    shares = search.work_shares(model, calibration)
    kept = shares.keys() - forms.keys()
    assert kept
    assert sum(shares[name] for name in kept) <= search.BUDGET
    exact = calibration.logits(model)

    def error(chosen: dict[str, Form]) -> float:
        return float(np.mean((calibration.logits(rewrite(model, chosen)) - exact) ** 2))

    assert error(forms) < error(dict.fromkeys(shares, FORM))


def test_the_front_is_what_no_other_beats_in_both():
    points = [(10.0, 0.5), (8.0, 0.1), (7.0, 0.2), (5.0, 0.01), (10.0, 0.6)]
    assert pareto(points) == [(5.0, 0.01), (8.0, 0.1), (10.0, 0.5)]
