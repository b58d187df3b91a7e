"""A server under load, from a process of its own: ``python -m benchmarks.serve_load BUNDLE TEXTS [--json FILE]``.

Starts ``jirgee serve BUNDLE`` on 127.0.0.1 and measures

    saturated  as many requests in flight as are admitted: texts a second against ``jirgee bench`` on the same texts,
               the two in turns, for a machine is not as fast in one minute as in the next

and then, with requests sent at fixed times whether or not earlier ones were answered (an open loop, so that a slow
server cannot slow its load)

    half       half the capacity: the p99 to compare with
    overload   ten times the capacity: p99 of what was admitted, the rest refused, none unanswered, memory flat
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from uvloop import run

from jirgee.labelled import checked_text
from jirgee.machine import describe
from jirgee.rows import Reject, read_rows

HOST = "127.0.0.1"
ANSWER_SECONDS = 30.0  # a request that takes longer counts as hanging
MAX_CONNECTIONS = 400


@dataclass
class Outcome:
    """Latencies in seconds of requests that were answered 200, measured from when each was due."""

    texts_per_request: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    late: float = 0.0

    def summary(self) -> dict[str, Any]:
        values = np.array(self.latencies or [float("nan")]) * 1000
        return {
            "seconds": round(self.seconds, 2),
            "offered": self.statuses.total(),
            "statuses": dict(self.statuses),
            "texts_per_second": round(len(self.latencies) * self.texts_per_request / self.seconds, 1),
            "latency_ms": {f"p{p}": round(float(np.percentile(values, p)), 2) for p in (50, 95, 99)},
            "sent_late_ms": round(1000 * self.late, 1),
        }


class Load:
    """Requests over kept-alive connections. ``bodies``: requests ready to be sent, taken in turn."""

    def __init__(self, port: int, texts: list[str], per_request: int):
        self.port, self.per_request = port, per_request
        self.requests = []
        for start in range(0, len(texts) - per_request + 1, per_request):
            body = json.dumps({"texts": texts[start : start + per_request]}, ensure_ascii=False).encode()
            head = (
                f"POST /v1/score HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            )
            self.requests.append(head.encode() + body)
        self.idle: list[_Connection] = []
        self.opened = 0

    async def one(self, number: int, due: float, outcome: Outcome) -> bool:
        """Send one request and wait for what becomes of it, which goes into ``outcome``."""
        done = asyncio.get_running_loop().create_future()
        await self.send(number, due, outcome, lambda status: done.done() or done.set_result(status))
        return await done == "200"

    async def send(self, number: int, due: float, outcome: Outcome, told: Callable[[str], Any]) -> None:
        """Send one request; ``told`` is called with its status when there is one, with ``hang`` or an error's name."""

        def ended(status: str) -> None:
            outcome.statuses[status] += 1
            if status == "200":
                outcome.latencies.append(time.perf_counter() - due)
            told(status)

        if not self.idle:
            if self.opened >= MAX_CONNECTIONS:
                ended("the client has no connection left")
                return
            self.opened += 1
            try:
                _, found = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self), HOST, self.port
                )
            except OSError as error:
                self.opened -= 1
                ended(type(error).__name__)
                return
        else:
            found = self.idle.pop()
        found.send(self.requests[number % len(self.requests)], ended)

    async def open_loop(self, rate: float, seconds: float) -> Outcome:
        """``rate`` requests a second, at random times (Poisson), for ``seconds``."""
        rng = np.random.default_rng(7)
        outcome = Outcome(self.per_request)
        due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
        began = time.perf_counter()
        for number, at in enumerate(due):
            if (wait := began + at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            elif number % 16 == 0:
                await asyncio.sleep(0)
            outcome.late = max(outcome.late, time.perf_counter() - began - at)
            await self.send(number, began + at, outcome, lambda status: None)
        while outcome.statuses.total() < len(due):
            await asyncio.sleep(0.01)
        outcome.seconds = time.perf_counter() - began
        return outcome

    async def closed_loop(self, clients: int, seconds: float) -> Outcome:
        """``clients`` that each send their next request when the last was answered; after a 429 they wait a little."""
        outcome = Outcome(self.per_request)
        end = time.perf_counter() + seconds
        numbers = iter(range(10**9))

        async def client() -> None:
            while time.perf_counter() < end:
                if not await self.one(next(numbers), time.perf_counter(), outcome):
                    await asyncio.sleep(0.05)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        outcome.seconds = time.perf_counter() - began
        return outcome

    def close(self) -> None:
        for connection in self.idle:
            connection.transport.close()
        self.idle.clear()
        self.opened = 0


class _Connection(asyncio.Protocol):
    """One kept-alive connection, with as little work a request as can be: the server shares the processors."""

    def __init__(self, load: Load):
        self.load, self.buffer = load, b""
        self.ended: Callable[[str], None] | None = None
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, request: bytes, ended: Callable[[str], None]) -> None:
        self.ended, self.buffer = ended, b""
        self.deadline = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._end, "hang")
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._end(head[9:12].decode())

    def connection_lost(self, error: Exception | None) -> None:
        if self.ended is None and self in self.load.idle:
            self.load.idle.remove(self)
            self.load.opened -= 1
        self._end(type(error or ConnectionResetError()).__name__)

    def _end(self, status: str) -> None:
        if self.ended is None:
            return
        ended, self.ended = self.ended, None
        assert self.deadline is not None
        self.deadline.cancel()
        if status.isdigit():
            self.load.idle.append(self)
        else:
            self.load.opened -= 1
            self.transport.abort()
        ended(status)


def rss(pid: int) -> int:
    found = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[0]) * 1024


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


SCORER_ALONE = """
import json, sys, time
from jirgee import Scorer
bundle, threads, texts = json.load(sys.stdin)
with Scorer.load(bundle, threads=threads) as scorer:
    scorer.score(texts[:64])
    began = time.process_time()
    scorer.score(texts)
    print(len(texts) / (time.process_time() - began))
"""


async def saturate(load: Load, pid: int, seconds: float, clients: int) -> tuple[Outcome, float]:
    """What was answered, and the server's processor time for it."""
    await load.closed_loop(clients, min(1.0, seconds))
    cpu = cpu_seconds(pid)
    outcome = await load.closed_loop(clients, seconds)
    cpu = cpu_seconds(pid) - cpu
    load.close()
    return outcome, cpu


async def overload(load: Load, pid: int, seconds: float, capacity: float) -> dict[str, Any]:
    """Half of ``capacity`` (requests a second) and ten times of it, and memory before and after the worst."""
    half = await load.open_loop(capacity / 2, seconds)
    before = rss(pid)
    tenfold = await load.open_loop(capacity * 10, seconds)
    after = rss(pid)
    load.close()
    p99 = [float(np.percentile(outcome.latencies, 99)) for outcome in (half, tenfold)]
    return {
        "half": half.summary(),
        "overload": tenfold.summary(),
        "p99_overload_to_half": round(p99[1] / p99[0], 2),
        "hanging": tenfold.statuses["hang"] + half.statuses["hang"],
        "rss_bytes": {"before": before, "after": after},
    }


def measure(
    load: Load, pid: int, seconds: float, clients: int, rounds: int, bench: Callable[[], float]
) -> dict[str, Any]:
    """All of it; ``seconds`` of each load, of which the saturated one is done in ``rounds`` parts."""
    whole, cpu, shares, alone = Outcome(load.per_request), 0.0, [], [bench()]
    for _ in range(rounds):
        part, used = run(saturate(load, pid, seconds / rounds, clients))
        alone.append(bench())
        whole.latencies += part.latencies
        whole.statuses += part.statuses
        whole.seconds, cpu = whole.seconds + part.seconds, cpu + used
        rate = len(part.latencies) * load.per_request / part.seconds
        shares.append(rate / (sum(alone[-2:]) / 2))
    capacity = len(whole.latencies) / whole.seconds
    beyond = run(overload(load, pid, seconds, capacity))
    return {
        "texts_per_request": load.per_request,
        "capacity_requests_per_second": round(capacity, 1),
        "bench_texts_per_second": [round(rate, 1) for rate in alone],
        "saturated": whole.summary()
        | {
            "of_bench": round(statistics.median(shares), 3),
            "of_bench_each": [round(share, 3) for share in shares],
            "texts_per_cpu_second": len(whole.latencies) * load.per_request / cpu,
        },
        **beyond,
        "hanging": beyond["hanging"] + whole.statuses["hang"],
    }


def read_texts(path: Path, column: str) -> list[str]:
    rows = (row for row in read_rows(path) if not isinstance(row, Reject))
    return list(dict.fromkeys(checked_text(row.record, column, path, row.line) for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the saturated load with jirgee bench")
    parser.add_argument("--per-request", type=int, nargs="+", default=[1, 16], help="texts in a request")
    parser.add_argument("--clients", type=int, default=48, help="of the saturated load; more than are admitted")
    parser.add_argument("--threads", type=int, help="of the server and of jirgee bench")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="more arguments for jirgee serve")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    threads = ["--threads", str(args.threads)] if args.threads else []
    texts = read_texts(args.texts, args.text_column)
    base = [sys.executable, "-m", "jirgee.cli"]
    command = [*base, "bench", str(args.bundle), str(args.texts), "--text-column", args.text_column, "--json", *threads]
    command += ["--rounds", "1"]

    def bench() -> float:
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)[
            "texts_per_second"
        ]

    loads = []
    for per_request in args.per_request:
        server = subprocess.Popen(
            [*base, "serve", str(args.bundle), "--port", "0", *threads, *args.serve], stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr
            line = server.stderr.readline()
            if not (port := re.search(r"http://127\.0\.0\.1:(\d+)", line)):
                sys.exit(line or "jirgee serve did not start")
            load = Load(int(port[1]), texts, per_request)
            result = measure(load, server.pid, args.seconds, args.clients, args.rounds, bench)
            with urlopen(f"http://{HOST}:{port[1]}/metrics", timeout=10) as answer:
                figures = dict(re.findall(r"^(jirgee_\w+) (\S+)$", answer.read().decode(), re.M))
        finally:
            server.terminate()
            server.wait(90)
        mean_batch = float(figures["jirgee_batch_texts_sum"]) / float(figures["jirgee_batch_texts_count"])
        padding = 1 - float(figures["jirgee_tokens_total"]) / float(figures["jirgee_planned_tokens_total"])
        result |= {
            "exit_code": server.returncode,
            "texts_per_batch": round(mean_batch, 2),
            "padding": round(padding, 3),
        }
        # Where other programs take a part of the processors, only processor time can be compared.
        job = json.dumps([str(args.bundle), args.threads, texts])
        scorer = subprocess.run(
            [sys.executable, "-c", SCORER_ALONE], input=job, capture_output=True, check=True, text=True
        )
        result["saturated"]["cpu_of_scorer"] = result["saturated"]["texts_per_cpu_second"] / float(scorer.stdout)
        loads.append(result)
        print(json.dumps(result, indent=1), file=sys.stderr)
    report = {"bundle": args.bundle.name, "texts": len(texts), "machine": describe(), "loads": loads}
    out = json.dumps(report, ensure_ascii=False, indent=1)
    if args.json:
        args.json.write_text(out + "\n", encoding="utf-8")
    else:
        print(out)


if __name__ == "__main__":
    main()
