"""The attention graph of a bundle (``jirgee export --with-attention``): where each head of each layer looks.

The graph is small, because its weights are those of ``model.onnx``, into which it points; it is opened when the first
explanation asks for it and runs on the CPU, one text at a time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import ATTENTION, MODEL, Bundle
from .errors import BundleError, MachineError
from .providers import open_session


class Heads:
    """``Heads.of(bundle)(ids)``: attention of one text. Safe to share between threads."""

    def __init__(self, session: Any):
        self._session = session
        types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
        self._inputs = {node.name: types[node.type] for node in session.get_inputs()}

    @classmethod
    def of(cls, bundle: Bundle) -> Heads | None:
        """Open the graph; None where the bundle has none. Raises BundleError if onnxruntime cannot run it."""
        if ATTENTION not in bundle.files:
            return None
        with tempfile.TemporaryDirectory(prefix="jirgee-attention-", ignore_cleanup_errors=True) as work:
            for name in (MODEL, ATTENTION):  # nothing else is there for the graph to point into
                (Path(work) / name).write_bytes(bundle.read(name))
            return cls(open_session(str(Path(work) / ATTENTION), "cpu", intra_threads=1))

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids [w] of one text -> float32 [layers, heads, w, w]; row i says where token i looks, and sums to 1.

        Raises MachineError if onnxruntime fails, BundleError if what it gives is not attention.
        """
        arrays = {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, len(ids))),
            "token_type_ids": np.zeros_like(ids)[None],
        }
        feed = {name: arrays[name].astype(dtype) for name, dtype in self._inputs.items()}
        try:
            found = self._session.run(None, feed)[0]
        except Exception as error:  # onnxruntime raises its own classes, one per status code
            text = " ".join(str(error).split())
            raise MachineError(f"onnxruntime failed on the attention of {len(ids)} tokens: {text}") from error
        if found.ndim != 4 or found.shape[2:] != (len(ids), len(ids)) or not np.isfinite(found).all():
            raise BundleError("the attention graph gave no attention; export it again")
        return found
