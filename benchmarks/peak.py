"""What this machine multiplies at most, by onnxruntime's own matrix products: the measure of every model's share.

u8 x s8 with 32-bit sums (``MatMulInteger``) for 8-bit models, float32 ``MatMul`` for the others. Products of several
sizes, those of the models among them, are run both as one session with all threads and as one single-threaded
session for each processor; the highest rate counts. One multiply-add is two operations.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jirgee.machine import cpu_count

# rows, inner, columns
SIZES = ((512, 768, 3072), (512, 3072, 768), (1024, 1024, 4096), (512, 312, 1200), (128, 768, 768))
KINDS = {"fp32": ("MatMul", np.float32, np.float32), "int8": ("MatMulInteger", np.uint8, np.int8)}


def product(kind: str, inner: int, columns: int) -> bytes:
    """An ONNX model of one product with constant weights, as a model's layer has them."""
    from onnx import TensorProto, helper, numpy_helper

    operator, left, right = KINDS[kind]
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(inner, columns)) * (1 if kind == "fp32" else 30)).astype(right)
    given = helper.np_dtype_to_tensor_dtype(np.dtype(left))
    result = TensorProto.FLOAT if kind == "fp32" else TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        kind,
        [helper.make_tensor_value_info("x", given, ["rows", inner])],
        [helper.make_tensor_value_info("y", result, ["rows", columns])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def measure_peaks(seconds: float = 0.4) -> dict[str, float]:
    """Operations a second of each row of ``KINDS``; ``seconds`` for each size and layout."""
    return {kind: max(rate for size in SIZES for rate in _rates(kind, size, seconds)) for kind in KINDS}


def _rates(kind: str, size: tuple[int, int, int], seconds: float) -> list[float]:
    import onnxruntime

    rows, inner, columns = size
    model, cpus = product(kind, inner, columns), cpu_count()
    x = (np.random.default_rng(1).random((rows, inner)) * (1 if kind == "fp32" else 200)).astype(KINDS[kind][1])
    rates = []
    for threads, sessions in ((cpus, 1), (1, cpus)):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": x})

        def work(_: int, session: Any = session) -> int:
            runs, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                session.run(None, {"x": x})
                runs += 1
            return runs

        with ThreadPoolExecutor(sessions) as pool:
            began = time.perf_counter()
            runs = sum(pool.map(work, range(sessions)))
            rates.append(2 * rows * inner * columns * runs / (time.perf_counter() - began))
        if cpus == 1:
            break
    return rates
