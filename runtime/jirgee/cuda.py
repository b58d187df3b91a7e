"""Batches on a GPU: shapes that repeat, buffers that stay where they are, and kernels launched as one graph.

A GPU waits for memory to be allocated and for kernels to be launched one by one. So widths and numbers of rows are
rounded up to few sizes (*buckets*), each bucket keeps its input and output buffers on the device (onnxruntime's
IOBinding), filled through page-locked memory where this onnxruntime offers some, and with ``enable_cuda_graph`` each
bucket is captured once as a CUDA graph (``gpu_graph_id``) and replayed from then on. None of this changes a score by
more than rounding: what is added is padding under the mask, and rows that are thrown away.

Source: onnxruntime's documentation, "CUDA Execution Provider", sections I/O Binding and CUDA Graphs. The buffers work
on any provider, which is how they are tested without a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bundle import Bundle
from .layout import fingerprint
from .machine import user_cache
from .providers import DEVICES, onnxruntime

NARROW = 8  # tokens: no width is rounded to less
MOST = 64  # buckets with buffers of their own, for each thread; further ones run without
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def widths(lengths: np.ndarray, widest: int) -> np.ndarray:
    """int64 [n]: ``lengths`` rounded up to multiples of 8 up to 64, of 16 up to 128, of 32 up to 256 and so on.

    Less than a quarter is added from 64 tokens on, and at most 7 tokens below. None exceeds ``widest``, the most that
    the model takes.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    doublings = np.floor(np.log2(np.maximum(lengths - 1, 1)))
    step = np.maximum(NARROW, np.exp2(doublings - 2)).astype(np.int64)
    return np.minimum(-(-lengths // step) * step, np.maximum(lengths, widest))


def rows_of(count: int, full: int) -> int:
    """``count`` rounded up to a power of two, but not over ``full``, the rows of a batch that is not the last."""
    return max(count, min(full, 1 << (count - 1).bit_length()))


@dataclass
class _Bucket:
    """The buffers of one shape: ``staging`` on the host, ``inputs`` and ``output`` on the device, bound for good."""

    staging: dict[str, tuple[np.ndarray, Any]]  # what to write to, and what the device copies from
    inputs: dict[str, Any]
    output: Any
    binding: Any
    options: Any


class Bound:
    """Runs a session through buffers that are kept. Safe to share between threads: each has buffers of its own.

    ``inputs``: name -> numpy type of the session's inputs. ``labels``: width of its first output, the logits.
    """

    def __init__(self, session: Any, inputs: Mapping[str, Any], labels: int, device: str):
        self._session, self._inputs, self._labels = session, dict(inputs), labels
        provider, options = DEVICES[device]
        self.graphs = options.get("enable_cuda_graph") == "1"
        self.pinned = False
        on_cpu = provider == DEVICES["cpu"][0]
        self._memory = "cpu" if on_cpu else "cuda"
        self._host_memory = None if on_cpu else _page_locked(provider)
        output = session.get_outputs()[0]
        self._output, self._float = output.name, FLOATS[output.type]
        self._graph_ids = itertools.count(1)
        self._own = threading.local()

    @property
    def buckets(self) -> dict[tuple[int, int], _Bucket]:
        """Of the calling thread: (rows, width) -> buffers."""
        if not hasattr(self._own, "buckets"):
            self._own.buckets = {}
        return self._own.buckets

    def run(self, feed: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
        """Logits float [n, k] of the n rows of ``feed``, computed as ``rows`` rows: the first one fills them up.

        Raises what onnxruntime raises.
        """
        count, width = next(iter(feed.values())).shape
        bucket = self.buckets.get((rows, width))
        if bucket is None:
            if len(self.buckets) >= MOST:
                return self._session.run(None, feed, self._options(-1))[0]
            bucket = self.buckets[rows, width] = self._bucket(rows, width)
        for name, array in feed.items():
            target, source = bucket.staging[name]
            target[:count] = array
            target[count:] = array[0]
            bucket.inputs[name].update_inplace(source)
        bucket.binding.synchronize_inputs()
        self._session.run_with_iobinding(bucket.binding, bucket.options)
        return bucket.output.numpy()[:count].copy()

    def _bucket(self, rows: int, width: int) -> _Bucket:
        value = onnxruntime().OrtValue
        shape = (rows, width)
        staging = {name: self._staging(shape, kind) for name, kind in self._inputs.items()}
        inputs = {
            name: value.ortvalue_from_numpy(np.zeros(shape, kind), self._memory, 0)
            for name, kind in self._inputs.items()
        }
        output = value.ortvalue_from_numpy(np.zeros((rows, self._labels), self._float), self._memory, 0)
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        binding.bind_ortvalue_output(self._output, output)
        return _Bucket(staging, inputs, output, binding, self._options(next(self._graph_ids)))

    def _staging(self, shape: tuple[int, int], kind: Any) -> tuple[np.ndarray, Any]:
        """Host memory to write a batch to: page-locked if it can be had, else numpy's own."""
        if self._host_memory is not None:
            with contextlib.suppress(Exception):  # of any class: an onnxruntime that cannot is as good as an old one
                source = onnxruntime().OrtValue.ortvalue_from_shape_and_type(
                    list(shape), kind, memory_info=self._host_memory
                )
                target = source.numpy()
                if _same_memory(target, source.numpy):
                    self.pinned = True
                    return target, source
        array = np.zeros(shape, kind)
        return array, array

    def _options(self, graph_id: int) -> Any:
        """Run options: which CUDA graph this run is, -1 for none. None where no graphs are captured."""
        if not self.graphs:
            return None
        options = onnxruntime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
        return options


def _page_locked(provider: str) -> Any:
    """The memory of the host that the GPU reads directly, as onnxruntime calls it; None where it has none to give."""
    ort = onnxruntime()
    with contextlib.suppress(Exception):  # the functions are young, and differ between versions
        for device in ort.get_ep_devices():
            if device.ep_name in (provider, DEVICES["cuda"][0]):
                return device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
    return None


def _same_memory(view: np.ndarray, again: Callable[[], np.ndarray]) -> bool:
    """Whether what is written to ``view`` is in the buffer that ``again`` reads."""
    view[...] = 1
    return bool((again() == 1).all())


def provider_options(bundle: Bundle, device: str) -> dict[str, str]:
    """Options that depend on the bundle. TensorRT's engines are kept in the user's cache folder, for this very bundle
    and onnxruntime: TensorRT names them by the graph's shape, so another model's weights would be taken for ours.
    """
    if device != "tensorrt":
        return {}
    options = {"trt_fp16_enable": "1"} if bundle.recipe == "fp16" else {}
    try:
        folder = user_cache() / "engines" / f"{fingerprint(bundle)}-{onnxruntime().__version__}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or not ours to write: engines are then built anew each time
        return options
    kept = str(folder)
    return options | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": kept,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": kept,
    }
