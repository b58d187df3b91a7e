"""A rewrite that makes the activations of a graph easier to round, and the products that it is worth its price for.

A few channels of a BERT's activations are ten times larger than the others, and one scale a tensor leaves little for
the rest. Smoothing divides each input channel of a product by a factor and multiplies the matching row of its weights
by it: the same function, with the outliers moved into the weights, which have a scale a column (SmoothQuant, Xiao et
al. 2023, arXiv:2211.10438). It is a pass over the activations, and makes the weights harder to round, so that some
products are better without. Which ones: rounding to steps of width s adds noise of power s² / 12 to every number
(Widrow and Kollár 2008, Quantization Noise, ch. 4), from which follows what it adds to the results of a product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from .calibrate import Channels
from .graph_edit import Graph
from .products import products, rounded, steps_of

STRENGTH = 0.8  # of the paper's alpha, where one scale for all texts has to hold every channel's peak
WORTH = 1.25  # times the noise with it: for less, no pass is made


def factors(model: ModelProto, channels: Mapping[str, Channels], strength: float) -> dict[str, np.ndarray]:
    """Product -> factor of each of its input's channels, float32. 0 leaves activations alone, 1 makes them equal."""
    tables = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        product.node: _factor(channels[product.tensor], numpy_helper.to_array(tables[product.weights]), strength)
        for product in products(model)
    }


def worthy_factors(model: ModelProto, channels: Mapping[str, Channels], levels: int) -> dict[str, np.ndarray]:
    """``factors`` with STRENGTH, of the products that need them where activations have one calibrated scale and weights
    ``levels`` steps either way; and of those behind an attention, where they are free: they go into its values.
    """
    graph = Graph(model)
    found = factors(model, channels, STRENGTH)
    for product in products(model):
        maker = graph.maker(product.tensor)
        if maker is not None and maker.op_type == "Attention":
            continue
        matrix, seen, factor = graph.array(product.weights), channels[product.tensor], found[product.node]
        without, with_it = (_noise(seen, matrix, by, levels) for by in (np.ones_like(factor), factor))
        if without <= WORTH * with_it:
            del found[product.node]
    return found


def smooth(model: ModelProto, factors: Mapping[str, np.ndarray]) -> ModelProto:
    """``model`` with every product that has ``factors`` smoothed. The same function up to rounding."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    for node in list(graph.nodes):
        if node.name in factors:
            factor = factors[node.name]
            node.input[1] = graph.store(f"{node.input[1]}_smooth", graph.array(node.input[1]) * factor[:, None])
            divisor = graph.store(f"{node.name}_smooth_factor", 1 / factor)
            smoothed = f"{node.input[0]}_for_{node.name}"
            graph.nodes.append(helper.make_node("Mul", [node.input[0], divisor], [smoothed], f"{node.name}_smooth"))
            node.input[0] = smoothed
    graph.finish()
    return result


def _factor(seen: Channels, matrix: np.ndarray, strength: float) -> np.ndarray:
    activation = np.maximum(seen.peak, 1e-3)
    weight = np.maximum(np.abs(matrix).max(axis=1), 1e-5)
    factor = activation**strength / weight ** (1 - strength)
    return (factor / np.exp(np.log(factor).mean())).astype(np.float32)


def _noise(seen: Channels, matrix: np.ndarray, factor: np.ndarray, levels: int) -> float:
    """Power of the noise in the results of one token, summed over the columns: of activations and of weights."""
    divided, scaled = seen.divided(factor), matrix * factor[:, None]
    step, _ = steps_of(*divided.range)
    _, scale = rounded(scaled, levels)
    return float(step**2 * np.sum(scaled**2) + np.sum(scale**2) * divided.square.sum()) / 12
