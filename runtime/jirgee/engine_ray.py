"""A file-scoring run on Ray Data: the same rows as by ``run``, scored by many processes or machines.

Ray schedules, keeps the order, holds readers back when scoring lags, and does again what a lost process had in hand: a
chunk depends on the input alone and arrives here once. There is no journal: a run that ends starts over.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

from .bundle import Bundle
from .columns import Columns
from .errors import InputError, MachineError, optional_import
from .job import check_counts
from .labelled import checked_text
from .lock import Lock
from .machine import cpu_count
from .providers import choose_device
from .ray_parts import Part, Worker, read
from .rows import Row, Sink, read_items
from .run import Task, check_task
from .sinks import beside
from .sources import UnreadableFile
from .summary import Summary

OBJECT_STORE = 1 << 29  # bytes of shared memory for the chunks under way, where Ray is started here


def run(
    task: Task,
    bundle: Bundle,
    device: str = "auto",
    workers: int | None = None,
    address: str | None = None,
    progress: Callable[[int], Any] = lambda rows: None,
    consumed: Callable[[int, int], Any] = lambda file, count: None,
) -> Summary:
    """Do ``task`` with ``workers`` processes, on this machine or on the Ray cluster at ``address``, where the bundle
    and the inputs must have the same paths on every node. By default there are as many workers as processors.

    Raises InputError as the local ``run``, MachineError for what Ray cannot do, MissingPackage without it.
    """
    if task.resume:
        raise InputError("on Ray there is nothing to go on with: a run that ends starts over; leave --resume out")
    ray = _ray()
    summary, began, device = Summary(), time.perf_counter(), choose_device(device)
    with ExitStack() as stack:
        stack.enter_context(Lock(beside(task.output, "lock"), task.output))
        check_task(task)
        for what in ("journal", "scores"):  # of a local run that --overwrite gives up
            beside(task.output, what).unlink(missing_ok=True)
        sink = stack.enter_context(Sink(task.output))
        rejects = stack.enter_context(Sink(task.rejects, "jsonl")) if task.rejects else None
        workers = _start(ray, stack, workers, address, device)
        columns = _columns(task, bundle, sink.nested)
        for part in _parts(ray, task, bundle, columns, device, workers):
            path, error, clock = task.inputs[part.file], part.error, time.perf_counter()
            if error:
                raise InputError(error.reason, path, error.line) if isinstance(error, InputError) else error
            for row, added in zip(part.chunk.rows, part.added, strict=True):
                sink.write(row.record, added, row.origin)
            sink.flush()
            for reject in part.chunk.rejects:
                assert rejects
                if rejects.rows == task.max_rejects:
                    reason = f"that is reject number {rejects.rows + 1} and --max-rejects is {task.max_rejects}"
                    raise InputError(f"{reject['reason']}; {reason}", path, reject["line"])
                rejects.write(reject | {"file": str(path)})
            summary.add(part.done)
            summary.write_seconds += time.perf_counter() - clock
            consumed(part.file, part.read)
            progress(len(part.chunk.rows))
        summary.seconds = time.perf_counter() - began
        check_counts(summary, sink.path, sink.rows, rejects.rows if rejects else 0)
    return summary


def _ray() -> Any:
    """The module, told before it is imported not to report home. Raises MissingPackage."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for module in ("ray", "pyarrow", "pandas"):
        optional_import(module, "jirgee[ray]", "--engine ray")
    import_module("ray.data")
    return import_module("ray")


def _columns(task: Task, bundle: Bundle, nested: bool) -> Columns:
    """The added columns, from the first row that has a text."""
    for path in task.inputs:
        with suppress(UnreadableFile):
            for item in read_items(path, task.format):
                if isinstance(item, Row):
                    with suppress(InputError):
                        checked_text(item.record, task.text_column, path, item.line)
                        return Columns.beside(item.record, bundle.labels, nested, task.extras)
    return Columns("", bundle.labels, nested, task.extras)


def _start(ray: Any, stack: ExitStack, workers: int | None, address: str | None, device: str) -> int:
    """Connect to Ray, or start it here without its dashboard and its reports home; returns the number of workers."""
    options: dict[str, Any] = {"address": address or "local"}
    if not address:
        options |= {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
        options |= {"num_cpus": (workers or cpu_count()) + 1}  # one more for reading
    stack.enter_context(warnings.catch_warnings())  # fewer chunks than workers are no news
    warnings.filterwarnings("ignore", "The (max|min)imum number of concurrent")
    try:
        host, _, port = (address or "").rpartition("://")[2].rpartition(":")
        if host and port.isdigit():  # else Ray tries for many minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        stack.callback(ray.shutdown)
        there = ray.cluster_resources()
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise MachineError(f"--engine ray{f' at {address}' if address else ''}: {_line(error)}") from None
    most = int(there.get("GPU", 0) if device != "cpu" else there.get("CPU", 0) - 1)
    if most < (workers or 1):
        raise MachineError(f"--engine ray: this cluster has room for {most} workers on {device}; pass --workers {most}")
    return workers or most


def _parts(ray: Any, task: Task, bundle: Bundle, columns: Columns, device: str, workers: int) -> Iterator[Part]:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # every chunk a block of its own
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    reading = {"task": replace(task, inputs=[path.resolve() for path in task.inputs]), "columns": columns}
    scoring = bundle.path.resolve(), device, columns
    files = ray.data.from_items(list(range(len(task.inputs))), override_num_blocks=len(task.inputs))
    chunks = files.map_batches(read, fn_kwargs=reading, num_cpus=0.5, concurrency=min(2, len(task.inputs)), **blocks)
    needs = {"num_cpus": 1, "num_gpus": 0 if device == "cpu" else 1, "concurrency": workers}
    scored = chunks.map_batches(Worker, fn_constructor_args=scoring, **needs, **blocks)
    try:
        for block in scored.iter_batches(**blocks):
            for row in range(len(block)):
                yield Part.unpack(block.slice(row))
    except ray.exceptions.RayError as error:
        raise MachineError(f"--engine ray: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
