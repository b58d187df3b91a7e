"""``jirgee serve``: a bundle as an HTTP server."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from .bundle import Bundle
from .command import Command, UsageError, device_arguments, positive, within
from .errors import InputError
from .scorer import Scorer

TOKEN = "JIRGEE_TOKEN"


_port = within(int, 0, 65535, "port")
_seconds = within(float, 0, 3600, "seconds")


def _some_seconds(text: str) -> float:
    if not (number := _seconds(text)):
        raise ArgumentTypeError("must be more than 0")
    return number


def _serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=_port, default=8000, help="default 8000; 0 chooses a free one")
    device_arguments(parser)
    limits = parser.add_argument_group("limits")
    add = limits.add_argument
    add(
        "--max-wait",
        type=_some_seconds,
        metavar="SECONDS",
        help="refuse a request (429) when the work ahead of it takes longer (default: about the time of a batch)",
    )
    add("--batch-tokens", type=positive, metavar="N", help="tokens of one batch (default: 128 to 512 on a CPU)")
    add("--max-texts", type=positive, default=256, metavar="N", help="texts in a request (default 256)")
    add("--max-chars", type=positive, default=10_000, metavar="N", help="characters in a text (default 10000)")
    add("--max-body", type=positive, default=1 << 20, metavar="BYTES", help="of a request's body (default 1048576)")
    add(
        "--max-connections",
        type=positive,
        default=1000,
        metavar="N",
        help="then the longest idle one goes (default 1000)",
    )
    add(
        "--receive-timeout",
        type=_some_seconds,
        default=10.0,
        metavar="SECONDS",
        help="for a request to arrive whole (default 10)",
    )
    add("--keep-alive", type=positive, default=75, metavar="SECONDS", help="of an idle connection (default 75)")
    add(
        "--drain",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="after SIGTERM, serve on while /readyz says 503 (default 1)",
    )
    parser.add_argument("--cache-texts", type=positive, default=0, metavar="N", help="remember the scores of N texts")
    parser.add_argument(
        "--request-log", type=Path, metavar="FILE", help="one JSON line a text, rotated; no texts in it"
    )
    parser.add_argument("--log-texts", action="store_true", help="write the texts into the request log too")


def _serve(args: Namespace) -> int:
    if args.log_texts and not args.request_log:
        raise UsageError("--log-texts needs --request-log FILE")
    token = os.environ.get(TOKEN)
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise InputError(f"{TOKEN} must be printable ASCII without spaces around it; unset it for no token")
    from . import listener
    from .server import Settings, create_app

    settings = Settings(
        args.max_wait,
        args.max_texts,
        args.max_chars,
        args.max_body,
        args.batch_tokens,
        token,
        args.request_log,
        args.log_texts,
    )
    limits = listener.Limits(args.max_connections, args.receive_timeout, args.keep_alive, args.drain)
    if (fit := listener.allow_files(limits.max_connections)) < limits.max_connections:
        print(
            f"jirgee: warning: the limit of open files leaves {fit} connections; raise it by ulimit -n", file=sys.stderr
        )
        limits = listener.Limits(fit, args.receive_timeout, args.keep_alive, args.drain)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jirgee: %(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    with listener.bind(args.host, args.port) as sock:
        bundle = Bundle.load(args.bundle)
        with Scorer.load(bundle, args.device, args.threads, args.batch_tokens, args.cache_texts) as scorer:
            scorer.score(["one text, so that what is wrong with the model is told now"])
            host, port = sock.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            tell = (
                f"jirgee: serving {bundle.path} on {url} ({scorer.device}, {scorer.threads} threads); API: {url}/docs"
            )
            gate = create_app(scorer, settings)
            listener.serve(gate, sock, limits, lambda: print(tell, file=sys.stderr, flush=True))
    return 0


SERVE = Command(
    "answer over HTTP",
    _serve_arguments,
    _serve,
    extra="serve",
    needs=("uvicorn", "httptools", "starlette", "prometheus_client"),
    epilog=f"""{TOKEN} in the environment: every request must bring it (Authorization: Bearer).

example:
  jirgee serve bundle --port 8000
  curl -H 'Content-Type: application/json' -d '{{"texts": ["Сайн байна уу"]}}' http://127.0.0.1:8000/v1/score""",
)
