"""Execution providers and session options: which hardware runs the model, and how.

Asking for a device that cannot be used is an error that says why. Only ``auto`` chooses, and says what it chose.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import BundleError, MachineError, optional_import

# device -> (execution provider, its options). The CPU stands behind CUDA for the few nodes it does not implement.
DEVICES: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}),
}


def onnxruntime() -> ModuleType:
    """The onnxruntime module. Raises MissingPackage naming both wheels if neither is installed."""
    return optional_import("onnxruntime", "jirgee[cpu]", "scoring (or 'jirgee[gpu]' for NVIDIA)")


def choose_device(device: str) -> str:
    """Resolve ``auto``; check that an asked-for device is usable. Raises MachineError saying what is missing."""
    if device == "auto":
        return "cpu" if why_no_cuda() else "cuda"
    if device not in DEVICES:
        raise MachineError(f"no such device {device!r}; choose from auto, {', '.join(DEVICES)}")
    if device == "cuda" and (reason := why_no_cuda()):
        raise MachineError(f"--device cuda: {reason}")
    return device


def why_no_cuda() -> str | None:
    """Why CUDA cannot be used here, with the remedy; None if it looks usable."""
    if DEVICES["cuda"][0] not in onnxruntime().get_available_providers():
        return "this onnxruntime is the CPU build; run: pip uninstall -y onnxruntime && pip install 'jirgee[gpu]'" + (
            "" if _has_driver() else ", and install an NVIDIA driver (no libcuda was found)"
        )
    if not _has_driver():
        return "no NVIDIA driver (libcuda was not found); install one, or use --device cpu"
    return None


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
    model: str | bytes, device: str, intra_threads: int, tensors_in: Path | None = None, arena: bool = True
) -> Any:
    """An ``onnxruntime.InferenceSession`` on ``device`` (``cpu`` or ``cuda``, already chosen).

    ``model``: a path or the file's bytes. ``tensors_in``: the folder of the file that the bytes say tensors are in.
    ``arena``: keep the memory of one run for the next.
    Raises BundleError if it is not a model this onnxruntime runs, MachineError if the device fell away.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads steal the processor from the tokeniser and from other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Widths change from batch to batch: a memory pattern for each would only grow.
    options.enable_mem_pattern = False
    if tensors_in:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tensors_in))
    options.enable_cpu_mem_arena = arena
    provider = DEVICES[device][0]
    providers = [DEVICES[name] for name in dict.fromkeys((device, "cpu"))]
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime raises its own classes, one per status code
        text = " ".join(str(error).split())
        if device == "cuda":
            raise MachineError(f"--device cuda: onnxruntime could not start it: {text}") from error
        raise BundleError(f"onnxruntime {ort.__version__} cannot run this model: {text}") from error
    if session.get_providers()[0] != provider:
        raise MachineError(
            f"--device {device}: onnxruntime fell back to {session.get_providers()[0]}; its CUDA or cuDNN libraries "
            "do not load: run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return session
