"""The tiny checkpoint as a model in PyTorch and as graphs, each made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jirgee.scorer import softmax
from jirgee_export.cli import EXPORT

# Without the extra [export] these cannot even be imported.
collect_ignore_glob = ["test_*.py"] if EXPORT.missing() else []


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path) -> Any:
    from jirgee_export.graph import load_model

    return load_model(tiny_checkpoint)


@pytest.fixture(scope="session")
def plain_graph(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """The tiny model as the exporter writes it: a file, nothing fused."""
    from jirgee_export.graph import export_graph

    path = tmp_path_factory.mktemp("graph") / "graph.onnx"
    export_graph(tiny_model, path)
    return path


@pytest.fixture(scope="session")
def fused_bytes(plain_graph: Path, tiny_model: Any) -> bytes:
    from jirgee_export.optimise import optimise

    return optimise(plain_graph, tiny_model.config).SerializeToString()


@pytest.fixture
def fused(fused_bytes: bytes) -> Any:
    """The optimised tiny graph, an own copy for each test."""
    import onnx

    return onnx.load_from_string(fused_bytes)


@pytest.fixture(scope="session")
def calibration(tiny_checkpoint: Path, sample_texts: list[str]) -> Any:
    return calibration_on(tiny_checkpoint, sample_texts[:40])


@pytest.fixture
def source(fused: Any, calibration: Any) -> Any:
    """What every recipe starts from."""
    from jirgee_export.graph_source import Source

    return Source(fused, calibration)


def calibration_on(checkpoint: Path, texts: list[str]) -> Any:
    from jirgee.checkpoint import read_settings
    from jirgee.tokens import Tokenizer
    from jirgee_export.calibrate import Calibration

    settings = read_settings(checkpoint)
    model = (checkpoint / settings.tokenizer.file).read_bytes()
    encoded = Tokenizer(settings.tokenizer, model, settings.max_tokens).encode(texts)
    return Calibration(encoded, settings.tokenizer.pad_id)


def fuse(model: Any, path: Path) -> Any:
    """The graph of a model in PyTorch, optimised; ``path``: a file to write on the way."""
    from jirgee_export.graph import export_graph
    from jirgee_export.optimise import optimise

    export_graph(model, path)
    return optimise(path, model.config)


def run_graph(model: Any, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Probabilities [n, k] by an ONNX model (or its path) in a plain onnxruntime session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    mask = np.ones_like(ids) if mask is None else mask
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
    feed = {value.name: arrays[value.name].astype(types[value.type]) for value in session.get_inputs()}
    return softmax(np.asarray(session.run(None, feed)[0]))


def run_torch(model: Any, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Probabilities [n, k] by a model in PyTorch."""
    import torch

    mask = np.ones_like(ids) if mask is None else mask
    with torch.inference_mode():
        output = model(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long())
    return softmax(output.logits.numpy())


def random_batch(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and a mask [rows, width]; the first row fills its width, the others are padded."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 600, (rows, width))
    lengths = rng.integers(1, width + 1, rows)
    lengths[0] = width
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    return np.where(mask, ids, 3), mask


def scale_spoiled(apply: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A recipe's ``apply`` whose result has every second weight scale of its channels times 30: a corrupted scale."""
    from onnx import numpy_helper

    def spoiled(model: Any) -> Any:
        stored = apply(model)
        scales = [tensor for tensor in stored.graph.initializer if tensor.name.endswith("_scale") and tensor.dims]
        assert scales, "nothing to spoil"
        for tensor in scales:
            values = numpy_helper.to_array(tensor).copy()
            values[::2] *= 30
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return stored

    return spoiled


def not_a_number(apply: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A recipe's ``apply`` whose result has a bias of the head that is not a number."""
    from onnx import numpy_helper

    def spoiled(model: Any) -> Any:
        stored = apply(model)
        bias = next(node for node in reversed(stored.graph.node) if node.op_type == "Gemm").input[2]
        tensor = next(t for t in stored.graph.initializer if t.name == bias)
        tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name))
        return stored

    return spoiled
