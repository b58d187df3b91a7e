"""What a request asks, checked against the limits: its size before its bytes, then its shape, then each text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request


@dataclass(frozen=True)
class Settings:
    """Limits and choices. ``max_wait``: seconds of work that may be ahead of a new request, None: by the measured rate.
    ``max_body``: bytes. ``token``: what ``Authorization: Bearer`` must bring, None for nothing.
    """

    max_wait: float | None = None
    max_texts: int = 256
    max_chars: int = 10_000
    max_body: int = 1 << 20
    batch_tokens: int | None = None
    token: str | None = field(default=None, repr=False)
    request_log: Path | None = None
    log_texts: bool = False


class ApiError(Exception):
    """An answer that is an error; ``place`` names the value that is at fault, as in ``texts[3]``."""

    def __init__(self, status: int, message: str, place: str | None = None, headers: dict[str, str] | None = None):
        self.status, self.message, self.place, self.headers = status, message, place, headers
        super().__init__(message)


async def read_value(request: Request, name: str, limit: int) -> Any:
    """The value of ``name``, alone in a JSON object of at most ``limit`` bytes, none of which is kept beyond them."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send the body as application/json")
    too_large = ApiError(413, f"the body is larger than {limit} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise ApiError(422, "the body is not an object")
    if name not in value:
        raise ApiError(422, "is missing", name)
    for more in value.keys() - {name}:
        raise ApiError(422, "is not known", more[:80].encode("utf-8", "replace").decode())
    return value[name]


def check_texts(value: Any, settings: Settings) -> list[str]:
    if not isinstance(value, list):
        raise ApiError(422, "is not a list of texts", "texts")
    if not 1 <= len(value) <= settings.max_texts:
        raise ApiError(422, f"holds {len(value)} texts; from 1 to {settings.max_texts} are taken", "texts")
    return [check_text(text, f"texts[{index}]", settings) for index, text in enumerate(value)]


def check_text(value: Any, place: str, settings: Settings) -> str:
    if not isinstance(value, str):
        raise ApiError(422, "is not a string", place)
    if len(value) > settings.max_chars:
        raise ApiError(422, f"has {len(value)} characters; {settings.max_chars} are taken", place)
    return value
