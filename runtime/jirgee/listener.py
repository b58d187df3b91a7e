"""Sockets, time-outs and signals: uvicorn with what it leaves open.

uvicorn's only time-out is for idle connections that have had an answer. Here a request must have arrived whole within
``receive_seconds`` of its first byte (or of the connection), a client must take its answer within the same time, the
head of a request is bounded, and of a body that was refused only a little more is read. When there are
``max_connections``, the one that has been idle, or sending, longest makes room for a new one: a flood of idle
connections harms itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from asyncio.events import TimerHandle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import InputError, MachineError
from .gate import Gate

HEAD_BYTES = 64 << 10  # of a request line and headers; a text in a query takes 6 bytes a Cyrillic letter
LINGER_BYTES = 16 << 20  # read and dropped of a body after its request was answered, so that the client sees the answer
STOP_SECONDS = 60  # for what was admitted before the end
BACKLOG = 2048
SPARE_FILES = 128  # descriptors beside the connections


@dataclass(frozen=True)
class Limits:
    """``drain_seconds``: between SIGTERM and the end of the listening socket; ``/readyz`` says 503 meanwhile."""

    max_connections: int = 1000
    receive_seconds: float = 10.0
    keep_alive_seconds: int = 75
    drain_seconds: float = 1.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError if the address is not one, MachineError if it cannot be had."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: no such address ({error})") from None
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise MachineError(f"{where} is in use; stop what listens there or pass another --port") from None
        if error.errno == errno.EACCES:
            raise MachineError(f"no permission to listen on {where}; pass a --port from 1024 on") from None
        raise MachineError(f"cannot listen on {where}: {error.strerror or error}; pass another --host") from None


def allow_files(connections: int) -> int:
    """Raise the limit of open files for so many connections; how many fit after all."""
    try:
        import resource
    except ImportError:
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, soft - SPARE_FILES)
    return connections


def serve(gate: Gate, listener: socket.socket, limits: Limits, started: Any = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was admitted. A second signal ends at once.

    ``started``: called when requests are taken.
    """
    config = uvicorn.Config(
        gate,
        http=_protocol(limits, gate),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # its lines hold the query, and so texts
        server_header=False,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config, gate, limits, started)
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gate: Gate, limits: Limits, started: Any):
        super().__init__(config)
        self._gate, self._limits, self._on_start, self._asked = gate, limits, started, False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_start and not self.should_exit:
            self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own dies of the signal in the end; this one returns, so that the exit code is 0."""
        before = {sig: signal.signal(sig, self._signal) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def _signal(self, sig: int, frame: Any) -> None:
        self._loop.call_soon_threadsafe(self._stop, sig)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def _stop(self, sig: int) -> None:
        if self._asked:
            self.should_exit = self.force_exit = True
            return
        self._asked = True
        self._gate.ready, self._gate.closing = False, True
        wait = self._limits.drain_seconds if sig == signal.SIGTERM and self.started else 0
        self._loop.call_later(wait, setattr, self, "should_exit", True)


class _Answered:
    """Stands where uvicorn keeps a request's cycle, for one that was answered when its head had come."""

    response_started = response_complete = True
    message_event = asyncio.Event()


def _protocol(limits: Limits, gate: Gate) -> type[HttpToolsProtocol]:
    """The class of a connection."""
    waiting: dict[Any, None] = {}  # connections without a whole request, the longest so first

    class Connection(HttpToolsProtocol):
        _deadline: TimerHandle | None = None
        _begun = False  # a request has begun to come and is not complete
        _in_head = False
        _head = 0  # bytes of an unfinished head
        _dropped = 0  # bytes of a body that came after the answer

        # --- time ------------------------------------------------------------------------------------------------

        def _arm(self) -> None:
            self._disarm()
            self._deadline = self.loop.call_later(limits.receive_seconds, self._expire)

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self._deadline = None
            if self.pipeline:  # the request waits for our answer to the one before it
                self._arm()
            elif self._begun and not self._answered_early() and not self.transport.is_closing():
                self._refuse("408 Request Timeout")
            else:
                self.transport.abort()

        def timeout_keep_alive_handler(self) -> None:
            self.transport.abort()

        # --- what a connection is doing --------------------------------------------------------------------------

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _answered_early(self) -> bool:
            return not self._in_head and self.cycle is not None and self.cycle.response_started

        def _mark(self) -> None:
            """Keep the list of those that wait for their client."""
            if self._answering() and not self._begun:
                waiting.pop(self, None)
            else:
                waiting.setdefault(self)

        def _refuse(self, status: str) -> None:
            self.transport.write(f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
            self.transport.close()
            self._arm()

        # --- what uvicorn and the parser call --------------------------------------------------------------------

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._mark()
            self._arm()
            if len(self.connections) > limits.max_connections:
                next(iter(waiting)).transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._unset_keepalive_if_required()
            waiting.pop(self, None)
            super().connection_lost(exc)

        def shutdown(self) -> None:
            if not self._begun:  # else its answer, or the deadline, will close it
                super().shutdown()

        def data_received(self, data: bytes) -> None:
            if self._begun and not self._in_head and not self._answering():
                self._dropped += len(data)
                if self._dropped > LINGER_BYTES:
                    self.transport.abort()
                    return
            if self._deadline is None and not self._answering():
                self._arm()
            super().data_received(data)
            if self._in_head:
                self._head += len(data)
                if self._head > HEAD_BYTES and not self.transport.is_closing():
                    self._refuse("431 Request Header Fields Too Large")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begun = self._in_head = True
            self._head = self._dropped = 0
            self._arm()

        def on_headers_complete(self) -> None:
            self._in_head = False
            if (answer := self._turned_away()) is None:
                super().on_headers_complete()
                return
            self.cycle = _Answered  # type: ignore[assignment]
            self.server_state.total_requests += 1
            dated = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
            self.transport.write(b"".join([b"HTTP/1.1 429 Too Many Requests\r\n", *dated, answer]))

        def _turned_away(self) -> bytes | None:
            """The answer to a request that the full queue refuses. Under load most are: no cycle, no task, no scope.
            What is unusual goes the long way.
            """
            if self._answering() or self.flow.write_paused or self.transport.is_closing():
                return None
            parser: Any = self.parser
            if parser.get_http_version() != "1.1" or not parser.should_keep_alive() or parser.should_upgrade():
                return None
            path = self.url.partition(b"?")[0].decode("latin-1")
            return gate.turned_away(parser.get_method().decode("latin-1"), path, self.headers)

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._begun = False
            self._disarm()
            self._mark()
            if not self._answering():  # answered before its end
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._mark()
            if self.transport.is_closing() or self.transport.get_write_buffer_size():
                self._arm()  # to take the answer

    return Connection
