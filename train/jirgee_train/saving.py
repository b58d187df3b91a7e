"""What a training run keeps while it runs: the best epoch's weights in memory, its whole state now and then on disk."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from jirgee.errors import MachineError

from . import resume

BEST = "best.safetensors"
SAVE_EVERY = 60.0  # seconds of training that an interruption may cost
SHARE = 0.05  # of the run's time, at most, goes into saving


class BestEpoch(TrainerCallback):
    """Keeps the weights of the first epoch with the best dev accuracy; ends training when ``patience`` epochs (0: any
    number) brought nothing better. What it decides follows from the log, which a checkpoint carries."""

    def __init__(self, patience: int):
        self._patience = patience
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args, state, control, model=None, **rest):
        scores = [entry["eval_accuracy"] for entry in state.log_history if "eval_accuracy" in entry]
        worse = len(scores) - 1 - scores.index(max(scores))
        if worse == 0 and model is not None:
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
        if self._patience and worse >= self._patience:
            control.should_training_stop = True


class Saver(TrainerCallback):
    """Asks the Trainer for a checkpoint every ``every`` seconds (0: each step), less often where saving is slow.

    A checkpoint is never made between the last step of an epoch and its evaluation: the Trainer, resumed there, would
    go on without evaluating. Nor at the end of the run, from which there is nothing to go on to.
    """

    def __init__(self, work: Path, best: BestEpoch, every: float = SAVE_EVERY, start: Path | None = None):
        self.work, self.start, self._best, self._every, self._pause = work, start, best, every, every
        self._earlier = resume.seconds_of(start) if start else 0.0
        self._began = self._saved = self._asked = time.monotonic()
        if start and (start / BEST).is_file():
            best.weights = load_file(start / BEST)
        _know_numbered_cpus()

    def seconds(self) -> float:
        """Of training, those before an interruption included."""
        return self._earlier + time.monotonic() - self._began

    def on_step_end(self, args, state, control, **rest):
        if state.epoch % 1 and state.global_step < state.max_steps and self._due(args):
            control.should_save = True
            control.should_log = True  # the loss since the last entry is not part of the state

    def on_evaluate(self, args, state, control, **rest):
        if not control.should_training_stop and state.global_step < state.max_steps and self._due(args):
            control.should_save = True

    def on_save(self, args, state, control, **rest):
        if args.world_size > 1:
            torch.distributed.barrier()  # every process has written the state of its random numbers
        if args.process_index == 0:
            checkpoint = self.work / f"checkpoint-{state.global_step}"
            if self._best.weights:
                save_file(self._best.weights, checkpoint / BEST)
            resume.complete(checkpoint, self.seconds())
        self._saved = time.monotonic()
        if self._every:
            self._pause = max(self._every, (self._saved - self._asked) / SHARE)

    def _due(self, args) -> bool:
        self._asked = time.monotonic()
        due = self._asked - self._saved >= self._pause
        if args.world_size > 1:  # the first process decides for all
            flag = torch.tensor(int(due), device=args.device)
            torch.distributed.broadcast(flag, 0)
            due = bool(flag.item())
        return due


@cache
def _know_numbered_cpus() -> None:
    """Of several processes on the CPU the Trainer loads the optimizer to ``cpu:0``, a place that torch.load lacks."""

    def load(storage, place: str):
        return storage if place.startswith("cpu:") else None

    torch.serialization.register_package(95, lambda storage: None, load)


def hash_model(model: PreTrainedModel, *files: Path) -> str:
    """sha256 over the names, shapes and values of a model's tensors, and over ``files``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@contextmanager
def write_errors(place: Path, remedy) -> Iterator[None]:
    """Turn a failed write of safetensors or PyTorch, or a full disk, into one line; ``remedy()`` ends it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        number, text = getattr(error, "errno", None), str(error)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in text or "os error 122" in text
        torchs = isinstance(error, RuntimeError) and ("inline_container" in text or "PytorchStreamWriter" in text)
        if not (full or torchs or isinstance(error, SafetensorError)):
            raise
        reason = "the disk is full" if full or torchs else f"cannot be written ({text.splitlines()[0][:160]})"
        raise MachineError(f"{place}: {reason}; {remedy()}") from None
