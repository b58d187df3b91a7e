"""How far a run has come when it may end by steps or by the clock, and the learning rate that follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from jirgee.errors import MachineError


@dataclass
class Budget:
    """``steps``: of the whole run. ``minutes``: of the whole run, 0 for no bound. ``spent``: seconds of earlier parts.

    The clock runs from the moment the budget is made.
    """

    steps: int
    minutes: float = 0.0
    spent: float = 0.0
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self):
        self.began = self.clock()

    def seconds(self) -> float:
        """Of all parts of the run together."""
        return self.spent + self.clock() - self.began

    def share(self, step: int) -> float:
        """0 at the start, 1 when the steps are done or the time is up, whichever is nearer."""
        by_clock = self.seconds() / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_clock, step / self.steps))


def warmed(share: float, warmup: float) -> float:
    """The factor of the peak learning rate: a linear rise over ``warmup`` of the run, a linear fall to 0 at its end."""
    if share < warmup:
        return max(share, 1e-3) / warmup
    return (1.0 - share) / (1.0 - warmup) if warmup < 1 else 0.0


@contextmanager
def memory_advice(advice: str):
    """Turn running out of memory into one line that ends in ``advice``."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        raise MachineError(f"out of memory while training; {advice}") from None
