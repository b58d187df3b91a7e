"""The number format of training, and whether this machine has it."""

from __future__ import annotations

import torch

from jirgee.errors import MachineError
from jirgee.machine import cpu_flags

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})  # x86 and ARM, as Linux names them


def check_precision(precision: str) -> None:
    """Raise MachineError, with the flag that mends it, if ``precision`` (fp32, bf16, fp16) cannot be trained in here.

    Master weights stay in 32 bits (Micikevicius et al. 2018, arXiv:1710.03740), so a checkpoint is always in fp32.
    """
    if precision == "fp32":
        return
    if torch.cuda.is_available():
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name()
            raise MachineError(f"{name} has no bf16; pass --precision fp16, or fp32 (the default)")
        return
    if precision == "fp16":
        raise MachineError("--precision fp16 needs a CUDA device, and PyTorch sees none; pass --precision fp32")
    if not cpu_has_bf16():
        raise MachineError("this processor has no bf16 instructions and there is no CUDA device; pass --precision fp32")


def cpu_has_bf16() -> bool:
    """Whether PyTorch takes bf16 on this processor, and the processor has instructions for it: without them PyTorch
    emulates it, many times slower than fp32."""
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    taken = torch.backends.mkldnn.is_available() and asked is not None and asked()
    return bool(taken and BF16_FLAGS & cpu_flags())


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context for a forward pass in ``precision``: ``fp32``, ``bf16``, or ``auto``, which is bf16 on CUDA and fp32
    elsewhere. Raises MachineError as ``check_precision`` does."""
    if precision != "auto":
        check_precision(precision)
    enabled = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
