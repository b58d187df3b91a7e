"""The probe of 8-bit arithmetic: its model, its verdicts, and what this machine says."""

from __future__ import annotations

import numpy as np
import pytest

from jirgee import int8
from jirgee.machine import has_int8_dot


def test_the_verdict_tells_saturating_sums_from_exact_ones() -> None:
    exact, saturated = int8.exact_sums(3), int8.saturated_sums(3)
    assert int8.verdict(exact) == "exact"
    assert int8.verdict(saturated) == "saturating"
    assert int8.verdict(exact + 1) == "unknown"
    assert exact[0, :6].tolist() == [64 * 255 * w for w in (127, -128, 64, -64, 1, -1)]
    # pairs of 255 * 127 and 255 * -128 leave 16 bits, those of 64 and -64 (7-bit weights) do not
    assert saturated[0, :6].tolist() == [32 * 32767, 32 * -32768, *exact[0, 2:6]]


def test_the_model_computes_a_matrix_product() -> None:
    """Against numpy, where nothing can saturate: activations up to 7 bits, weights as they are."""
    pytest.importorskip("onnxruntime")
    from jirgee.providers import open_session

    activations = np.random.default_rng(0).integers(0, 64, (9, int8.DEPTH), dtype=np.uint8)
    [sums] = open_session(int8.probe_model(), "cpu", 1).run(None, {"activations": activations})
    assert np.array_equal(sums, activations.astype(np.int32) @ int8.weights().astype(np.int32))


def test_this_machine() -> None:
    pytest.importorskip("onnxruntime")
    found = int8.probe()
    assert found in ("exact", "saturating")
    if has_int8_dot():
        assert found == "exact"


def test_the_worst_kernel_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU whose kernel for many rows saturates and whose kernel for one row does not."""

    class Session:
        def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            rows = len(feed["activations"])
            return [int8.saturated_sums(rows) if rows > 1 else int8.exact_sums(rows)]

    monkeypatch.setattr(int8, "open_session", lambda *args, **kwargs: Session())
    int8.probe.cache_clear()
    try:
        assert int8.probe() == "saturating"
    finally:
        int8.probe.cache_clear()
