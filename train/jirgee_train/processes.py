"""One run in several processes (``torchrun`` or ``accelerate launch``): who is first, and who waits for whom."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext


def rank() -> int:
    """This process among those of the run; the first, 0, is the one that prints and writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_before_others() -> AbstractContextManager:
    """A block that process 0 goes through before the others enter it."""
    if world_size() == 1:
        return nullcontext()
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available()).main_process_first()


def leave() -> None:
    """Part from the other processes, if there are any."""
    if world_size() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
