"""Execution providers and session options: which hardware runs the model, and how.

Asking for a device that cannot be used is an error that says why. Only ``auto`` chooses, and says what it chose.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import BundleError, MachineError, optional_import

GPU_WHEEL = "onnxruntime-gpu"
# No TF32: a bundle of 32-bit floats keeps their precision, and the fp16 recipe is there for speed.
CUDA = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}

# device -> (execution provider, its options)
DEVICES: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", CUDA),
    "cuda-graph": ("CUDAExecutionProvider", CUDA | {"enable_cuda_graph": "1"}),
    "tensorrt": ("TensorrtExecutionProvider", {}),
}
# Whose nodes the device does not implement, these take, in order.
BEHIND = {"cpu": (), "cuda": ("cpu",), "cuda-graph": ("cpu",), "tensorrt": ("cuda", "cpu")}
LIBRARIES = {
    "CUDAExecutionProvider": "CUDA or cuDNN libraries do not load{0}; run: pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "TensorrtExecutionProvider": "TensorRT libraries do not load{0}; install TensorRT (pip install tensorrt) of the "
    "version that this onnxruntime was built for, or use --device cuda",
}


def onnxruntime() -> ModuleType:
    """The onnxruntime module. Raises MissingPackage naming both wheels if neither is installed."""
    return optional_import("onnxruntime", "jirgee[cpu]", "scoring (or 'jirgee[gpu]' for NVIDIA)")


def choose_device(device: str) -> str:
    """Resolve ``auto``; check that an asked-for device is usable. Raises MachineError saying what is missing."""
    if device == "auto":
        return "cpu" if why_not("cuda") else "cuda"
    if device not in DEVICES:
        raise MachineError(f"no such device {device!r}; choose from auto, {', '.join(DEVICES)}")
    if device != "cpu" and (reason := why_not(device)):
        raise MachineError(f"--device {device}: {reason}")
    return device


def why_not(device: str) -> str | None:
    """Why this GPU ``device`` cannot be used here, with the remedy; None if it looks usable."""
    available = onnxruntime().get_available_providers()
    if DEVICES["cuda"][0] not in available:
        return "this onnxruntime is the CPU build; run: pip uninstall -y onnxruntime && pip install 'jirgee[gpu]'" + (
            "" if _has_driver() else ", and install an NVIDIA driver (no libcuda was found)"
        )
    if not _has_driver():
        return "no NVIDIA driver (libcuda was not found); install one, or use --device cpu"
    if DEVICES[device][0] not in available:
        return "this onnxruntime was built without it; use --device cuda"
    return None


def auto_note() -> str | None:
    """What ``auto`` chose and why, where that is a surprise: the GPU wheel is installed and the CPU is taken."""
    from importlib.metadata import PackageNotFoundError, distribution  # a tenth of the time that a start takes

    try:
        distribution(GPU_WHEEL)
    except PackageNotFoundError:
        return None
    reason = why_not("cuda")
    return f"--device auto: taking the CPU although {GPU_WHEEL} is installed: {reason}" if reason else None


def _has_driver() -> bool:
    names = ("nvcuda.dll",) if platform.system() == "Windows" else ("libcuda.so.1", "libcuda.so")
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def open_session(
    model: str | bytes,
    device: str,
    intra_threads: int,
    tensors_in: Path | None = None,
    arena: bool = True,
    more: dict[str, Any] | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on ``device`` (a row of DEVICES, already chosen).

    ``model``: a path or the file's bytes. ``tensors_in``: the folder of the file that the bytes say tensors are in.
    ``arena``: keep the memory of one run for the next. ``more``: options of the provider, beside the table's.
    Raises BundleError if it is not a model this onnxruntime runs, MachineError if the device fell away.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that compute one batch together wait for the next operator awake, but not for the next batch: that would
    # take the processors from everybody else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if intra_threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Widths change from batch to batch: a memory pattern for each would only grow.
    options.enable_mem_pattern = False
    if tensors_in:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tensors_in))
    options.enable_cpu_mem_arena = arena
    provider, asked = DEVICES[device]
    providers = [(provider, asked | (more or {})), *(DEVICES[name] for name in BEHIND[device])]
    try:
        if device == "cpu":
            session = ort.InferenceSession(model, options, providers=providers)
        else:
            with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints what it could not load among results
                _preload(ort, device)
                session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime raises its own classes, one per status code
        text = " ".join(str(error).split())
        if device != "cpu":
            raise MachineError(f"--device {device}: onnxruntime could not start it: {text}") from error
        newer = (
            "; update onnxruntime" if any(sign in text for sign in ("opset", "IR version", "an implementation")) else ""
        )
        raise BundleError(f"onnxruntime {ort.__version__} cannot run this model: {text}{newer}") from error
    if (first := session.get_providers()[0]) != provider:
        libraries = LIBRARIES[provider].format(_unloadable(ort, provider))
        raise MachineError(f"--device {device}: onnxruntime fell back to {first}; its {libraries}")
    return session


def _preload(ort: ModuleType, device: str) -> None:
    """Load NVIDIA's libraries from their wheels, where onnxruntime itself does not look (from its 1.21 on)."""
    if preload := getattr(ort, "preload_dlls", None):
        preload()
    if device == "tensorrt":
        with contextlib.suppress(Exception):  # absent or broken: the session then says what does not load
            importlib.import_module("tensorrt")


def _unloadable(ort: ModuleType, provider: str) -> str:
    """`` (REASON)``: what the system's loader says of the provider's library; empty where it says nothing."""
    name = provider.removesuffix("ExecutionProvider").lower()
    pattern = "onnxruntime_providers_{}.dll" if platform.system() == "Windows" else "libonnxruntime_providers_{}.so"
    try:
        ctypes.CDLL(str(Path(getattr(ort, "__file__", None) or "").parent / "capi" / pattern.format(name)))
    except OSError as error:
        return f" ({' '.join(str(error).split())})"
    return ""
