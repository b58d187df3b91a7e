"""The fused fp32 graph that recipes start from, and what calibration makes of it, each made once."""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np
from onnx import ModelProto

from .bias import correct
from .calibrate import Calibration, Channels
from .gamma import migrate
from .products import LEVELS, Form, products
from .smoothing import factors, smooth, worthy_factors


class Source:
    """Graphs that it returns are not to be changed. ``fused``: as it was given."""

    def __init__(self, fused: ModelProto, calibration: Calibration):
        self.fused, self.calibration = fused, calibration
        self.smoothed = cache(self._smoothed)
        self.fitted = cache(self._fitted)

    @cached_property
    def migrated(self) -> ModelProto:
        """The graph with its normalisations' factors in the weights."""
        return migrate(self.fused)

    @cached_property
    def channels(self) -> dict[str, Channels]:
        """Of each product's input in ``migrated``."""
        return self.calibration.channels(self.migrated, [product.tensor for product in products(self.migrated)])

    def _smoothed(self, strength: float) -> ModelProto:
        """``migrated``, with all products smoothed with ``strength``; for 0 the graph as it was given."""
        if not strength:
            return self.fused
        return smooth(self.migrated, factors(self.migrated, self.channels, strength))

    def _fitted(self, form: Form) -> tuple[ModelProto, dict[str, tuple[float, float]]]:
        """``migrated``, smoothed and its biases corrected as suits ``form``; and the range of each product's input."""
        found = worthy_factors(self.migrated, self.channels, LEVELS[form.weights])
        model = smooth(self.migrated, found)
        seen = {product.node: self.channels[product.tensor] for product in products(self.migrated)}
        one = np.ones(1)
        ranges = {p.tensor: seen[p.node].divided(found.get(p.node, one)).range for p in products(model)}
        return correct(model, self.calibration, form, ranges), ranges
