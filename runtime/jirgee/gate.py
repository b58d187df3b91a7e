"""The outermost layer of the server: the token, the count, and refusals that cost next to nothing. Under load most
requests end here, before anything of their body is read."""

from __future__ import annotations

import hmac
import json
import math
import time
from typing import Any

from .batcher import Batcher, Busy, Closed
from .telemetry import Telemetry

_CLOSE = (b"connection", b"close")
_CORS = (b"access-control-allow-origin", b"*")
_CORS_LINE = b"access-control-allow-origin: *\r\n"
BUSY = "the queue is full; try again later"


def _body(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "place": None}}).encode()


_BUSY = _body(BUSY)
_BUSY_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(_BUSY)


class Gate:
    """An ASGI application around another.

    ``measured``: paths that are refused while the queue is full. ``free``: paths that need no token. ``names``: paths
    that are told apart in the metrics. ``ready``: whether requests are wanted. ``closing``: connections end with their
    answer.
    """

    def __init__(
        self,
        app: Any,
        batcher: Batcher,
        telemetry: Telemetry,
        token: str | None,
        measured: set[str],
        free: set[str],
        names: set[str],
    ):
        self._app, self._batcher, self._telemetry = app, batcher, telemetry
        self._token = None if token is None else f"Bearer {token}".encode()
        self._measured, self._free, self._names = measured, free, names
        self.ready = self.closing = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, began, status = scope["path"], time.perf_counter(), 500
        cors = path.startswith("/api/")

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [_CORS] * cors + [_CLOSE] * self.closing
                if extra:
                    message = message | {"headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            if refusal := self._refusal(scope, path):
                await _send(answer, *refusal)
            else:
                await self._app(scope, receive, answer)
        finally:
            self._telemetry.request(path if path in self._names else "other", status, time.perf_counter() - began)

    def turned_away(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """What to write for a request that the full queue refuses, from the content type to the body's end; None
        for any other. The listener asks when it has a request's head, before there is an ASGI cycle or a task for it.
        """
        if path not in self._measured or self.closing:
            return None
        refusal = self._refusal({"method": method, "headers": headers}, path)
        if refusal is None or refusal[0] != 429:
            return None
        self._telemetry.request(path, 429, 0.0)
        [(_, wait)] = refusal[2]
        return (
            _BUSY_HEAD + (_CORS_LINE if path.startswith("/api/") else b"") + b"retry-after: %b\r\n\r\n" % wait + _BUSY
        )

    def _refusal(self, scope: Any, path: str) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        """Status, words and headers of a request that goes no further."""
        if self._token and path not in self._free and scope["method"] != "OPTIONS":
            brought = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(brought, self._token):
                return 401, "send Authorization: Bearer with the server's token", [(b"www-authenticate", b"Bearer")]
        if path in self._measured and scope["method"] in ("GET", "POST"):
            try:
                self._batcher.check_room()
            except Busy as busy:
                self._telemetry.refused("queue")
                wait = str(max(1, math.ceil(busy.retry_after))).encode()
                return 429, BUSY, [(b"retry-after", wait)]
            except Closed:
                return 503, "the server is stopping", []
        return None


async def _send(send: Any, status: int, message: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = _body(message)
    kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": kind + headers})
    await send({"type": "http.response.body", "body": body})
