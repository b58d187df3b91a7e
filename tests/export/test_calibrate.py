"""What calibration sees of the activations: their tokens, and nothing else."""

from __future__ import annotations

import numpy as np

from jirgee_export.calibrate import Calibration


def test_peaks_ignore_padding(fused, calibration):
    """One long text beside short ones must not put the padding's activations among the peaks."""
    encoded = calibration.encoded
    name = next(node.input[0] for node in fused.graph.node if node.op_type == "Attention")
    together = calibration.channels(fused, [name])[name]
    alone, squares = np.zeros_like(together.peak), []
    for row in range(len(encoded)):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]]
        single = type(encoded)(ids, np.array([0, len(ids)]), np.zeros(1, dtype=bool))
        found = Calibration(single, calibration.pad_id).channels(fused, [name])[name]
        alone = np.maximum(alone, found.peak)
        squares.append(found.square * len(ids))
    assert np.allclose(together.peak, alone, atol=1e-4)
    assert np.allclose(together.square, np.sum(squares, axis=0) / len(encoded.ids), rtol=1e-4)
