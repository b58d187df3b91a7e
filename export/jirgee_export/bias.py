"""Rounding moves the mean of what a product gives; the product's bias takes it back, at no cost.

With x the input of a product and W its weights, rounded to x' and W', each result is off by E[x'] W' - E[x] W on
average over the calibration texts (bias correction, Nagel et al. 2019, arXiv:1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto

from .calibrate import Calibration
from .graph_edit import Graph, bias_of
from .products import LEVELS, Form, products, rounded


def correct(
    model: ModelProto, calibration: Calibration, form: Form, ranges: Mapping[str, tuple[float, float]]
) -> ModelProto:
    """A copy of ``model`` whose biases make up for what ``form``, with static activations in ``ranges``, adds."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    found = products(model)
    means = calibration.means(model, [p.tensor for p in found], ranges)
    nodes = {node.name: node for node in graph.nodes}
    for product in found:
        place = bias_of(graph, nodes[product.node])
        if place is None:
            continue
        node, bias = place
        weights = graph.array(product.weights)
        steps, scale = rounded(weights, LEVELS[form.weights])
        exact, cut = means[product.tensor]
        shift = cut @ (steps * scale) - exact @ weights
        node.input[bias] = graph.store(
            f"{product.node}_corrected", graph.array(node.input[bias]) - shift.astype(np.float32)
        )
    graph.finish()
    return result
