"""Which products to leave in float: those that cost most accuracy for the work they save, found by measurement.

Each product alone is put into its few-bit form and the change of the logits is measured on calibration texts. Errors of
products are independent enough to add, so a greedy choice by error saved per multiplication spent is near the best
(a fractional knapsack). Rows behind the cut to the first token cost a hundredth and are kept first of all.
"""

from __future__ import annotations

import time

import numpy as np
from onnx import ModelProto

from .calibrate import Calibration
from .graph_source import Source
from .products import Form, Product, products, rewrite

BUDGET = 0.2  # share of all multiplications that may stay in float
GOOD_ENOUGH = 0.1  # of the squared error with everything quantised: what is left is not worth more float
SECONDS = 12.0  # of processor time for the whole measurement; it decides how many texts are used
FEWEST, MOST = 6, 48


def mixed_forms(source: Source, smoothing: float, form: Form) -> dict[str, Form]:
    """A form for each product that is not left in float."""
    model = source.smoothed(smoothing)
    calibration = _few(model, source.calibration, len(products(model)))
    costs = sensitivities(model, calibration, form)
    kept = choose(products(model), costs, work_shares(model, calibration), BUDGET)
    return {node: form for node in costs if node not in kept}


def sensitivities(model: ModelProto, calibration: Calibration, form: Form) -> dict[str, float]:
    """Mean squared change of the logits when only the product of that name is computed in ``form``."""
    exact = calibration.logits(model)
    return {
        product.node: float(np.mean((calibration.logits(rewrite(model, {product.node: form})) - exact) ** 2))
        for product in products(model)
    }


def work_shares(model: ModelProto, calibration: Calibration) -> dict[str, float]:
    """Share of each product of all multiplications that the calibration texts ask for."""
    found = products(model)
    rows = calibration.rows(model, [product.tensor for product in found])
    work = {product.node: product.work * rows[product.tensor] for product in found}
    total = sum(work.values())
    return {node: value / total for node, value in work.items()}


def choose(found: list[Product], costs: dict[str, float], shares: dict[str, float], budget: float) -> set[str]:
    """Names of the products to leave in float: greedily by error saved per work, within ``budget`` of the work."""
    left, spent, kept = sum(costs.values()), 0.0, set()
    enough = GOOD_ENOUGH * left
    for product in sorted(found, key=lambda product: -costs[product.node] / max(shares[product.node], 1e-12)):
        if left <= enough:
            break
        if spent + shares[product.node] <= budget:
            kept.add(product.node)
            spent += shares[product.node]
            left -= costs[product.node]
    return kept


def _few(model: ModelProto, calibration: Calibration, runs: int) -> Calibration:
    """As many texts as can be run ``runs`` times in SECONDS."""
    probe = calibration.take(FEWEST)
    probe.logits(model)
    began = time.process_time()
    probe.logits(model)
    one = (time.process_time() - began) / len(probe.encoded)
    return calibration.take(int(np.clip(SECONDS / max(one * runs, 1e-9), FEWEST, MOST)))
