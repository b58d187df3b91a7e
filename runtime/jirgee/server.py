"""The HTTP server's routes, as an ASGI application: what is asked, checked; what is answered. Sockets and signals are
in ``listener.py``, which requests run together in ``batcher.py``."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from . import __version__, docs_page, openapi, page_files
from .asked import ApiError, Settings, check_text, check_texts, read_value
from .batcher import Batcher, Busy, Closed, ItemFailed
from .bench import probe_texts
from .bundle import CARD
from .errors import InputError
from .gate import Gate
from .request_log import RequestLog
from .scorer import TOKEN_BUDGET, Scorer
from .telemetry import Telemetry

__all__ = ["Settings", "create_app"]

T = TypeVar("T")
log = logging.getLogger("jirgee.server")
PROBES = 64
BATCH_TOKENS = TOKEN_BUDGET | {"cpu": 128}  # on a CPU more are not faster, and whoever comes next waits for them
EXPLAINING = 4  # explanations that run or wait; each is some dozens of texts


def error_body(message: str, place: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "place": place}}


def create_app(scorer: Scorer, settings: Settings | None = None) -> Gate:
    """The application, for any ASGI server that runs its lifespan; ``jirgee serve`` runs it by ``listener.serve``."""
    service = _Service(scorer, settings or Settings())
    return service.gate


class _Service:
    def __init__(self, scorer: Scorer, settings: Settings):
        self.scorer, self.settings = scorer, settings
        self.telemetry = Telemetry()
        self.batcher = Batcher(
            scorer,
            settings.max_wait,
            settings.batch_tokens or BATCH_TOKENS[scorer.device],
            self.telemetry.batch,
        )
        self.telemetry.watch(self.batcher)
        self.requests = RequestLog(settings.request_log, settings.log_texts)
        self.explains = find_spec("jirgee.explain") is not None
        self._explaining = 0
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="jirgee-explain")
        self.document = openapi.document(__version__, scorer.bundle.labels, settings, self.explains)
        self.files = page_files.load()
        docs = docs_page.render(self.document).encode()
        rules = page_files.policy(docs.decode())
        self.files["/docs"] = page_files.PageFile(
            docs, page_files.file_headers(docs, "text/html; charset=utf-8", rules)
        )
        routes = [
            Route("/v1/score", self.score, methods=["POST"]),
            Route("/v1/model", self.model),
            Route(openapi.SEED_ROUTE, self.predict),
            Route(openapi.SEED_ROUTE, self.predict_post, methods=["POST"]),
            Route("/api/{rest:path}", self.preflight, methods=["OPTIONS"]),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
        ]
        if self.explains:
            routes.append(Route("/v1/explain", self.explain, methods=["POST"]))
        routes += [Route(path, self.file) for path in self.files]
        if "/" not in self.files:
            routes.append(Route("/", self.home))
        app = Starlette(
            routes=routes,
            lifespan=self.lifespan,
            exception_handlers={
                ApiError: _api_error,
                Busy: _busy,
                Closed: _closed,
                ItemFailed: _item_failed,
                HTTPException: _http_error,
                ClientDisconnect: _gone,
            },
        )
        app.router.redirect_slashes = False
        measured = {"/v1/score", "/v1/explain", openapi.SEED_ROUTE}
        free = {"/healthz", "/readyz", "/", "/openapi.json", *self.files}
        names = {getattr(route, "path", "") for route in routes}
        self.gate = Gate(app, self.batcher, self.telemetry, settings.token, measured, free, names)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        bundle = self.scorer.bundle
        await self.batcher.start(_probes(self.scorer))
        log.info("%s: %.0f tokens/s", bundle.path, self.batcher.rate)
        self.gate.ready = True
        yield
        self.gate.ready = False
        await self.batcher.close()
        self._explainer.shutdown(wait=False, cancel_futures=True)
        self.requests.close()

    # --- routes --------------------------------------------------------------------------------------------------

    async def score(self, request: Request) -> Response:
        texts = check_texts(await read_value(request, "texts", self.settings.max_body), self.settings)
        rows = await _unless_gone(request, self.batcher.submit(texts))
        for text, row in zip(texts, rows, strict=True):
            self.requests.add("/v1/score", text, row)
        return JSONResponse({"results": rows})

    async def explain(self, request: Request) -> Response:
        from . import explain  # type: ignore[attr-defined]

        text = check_text(await read_value(request, "text", self.settings.max_body), "text", self.settings)
        if self._explaining >= EXPLAINING:
            self.telemetry.refused("explain")
            raise Busy(1)
        self._explaining += 1
        work = asyncio.get_running_loop().run_in_executor(self._explainer, explain.explain, self.scorer, text)
        work.add_done_callback(self._explained)
        try:
            return JSONResponse(await _unless_gone(request, asyncio.shield(work)))
        except (ClientDisconnect, ApiError, asyncio.CancelledError):
            raise
        except InputError as error:
            raise ApiError(422, str(error), "text") from None
        except Exception as error:
            raise ItemFailed(0) from error

    def _explained(self, work: asyncio.Future[Any]) -> None:
        self._explaining -= 1
        if not work.cancelled():
            work.exception()  # retrieved, whether or not anyone still waits for it

    async def predict(self, request: Request) -> Response:
        if "text" not in request.query_params:
            raise ApiError(422, "is missing", "text")
        text = check_text(request.query_params["text"], "text", self.settings)
        [row] = await _unless_gone(request, self.batcher.submit([text]))
        count = self.requests.add(openapi.SEED_ROUTE, text, row)
        return JSONResponse({"username": row["label"], "score": str(row["score"]), "req_count": count})

    async def predict_post(self, request: Request) -> Response:
        return JSONResponse("post")

    async def preflight(self, request: Request) -> Response:
        asked = request.headers.get("access-control-request-headers", "*")
        headers = {"access-control-allow-methods": "GET, POST, OPTIONS", "access-control-allow-headers": asked}
        return Response(status_code=204, headers=headers)

    async def model(self, request: Request) -> Response:
        bundle, settings = self.scorer.bundle, self.settings
        return JSONResponse(
            {
                "name": bundle.path.name,
                "labels": bundle.labels,
                "card": bundle.read(CARD).decode("utf-8", "replace") if CARD in bundle.files else "",
                "recipe": bundle.recipe,
                "max_tokens": bundle.max_tokens,
                "temperature": bundle.temperature,
                "ngram_weight": bundle.ngram_weight,
                "tolerance": bundle.tolerance,
                "size_bytes": bundle.size,
                "files": {name: sha256 for name, (_, sha256) in bundle.files.items()},
                "provenance": dict(bundle.provenance),
                "device": self.scorer.device,
                "threads": self.scorer.threads,
                "limits": {
                    "max_texts": settings.max_texts,
                    "max_chars": settings.max_chars,
                    "max_body": settings.max_body,
                },
                "explains": self.explains,
            }
        )

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        if not self.gate.ready:
            raise ApiError(503, "the server is stopping")
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        body, kind = self.telemetry.text()
        return Response(body, headers={"content-type": kind})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self.document)

    async def home(self, request: Request) -> Response:
        return RedirectResponse("docs")

    async def file(self, request: Request) -> Response:
        found = self.files[request.scope["path"]]
        if request.headers.get("if-none-match") == found.headers["etag"]:
            return Response(status_code=304, headers=found.headers)
        return Response(found.body, headers=found.headers)


def _probes(scorer: Scorer) -> Sequence[str]:
    """Texts to warm up with and to learn the rate from."""
    spec = scorer.bundle.tokenizer
    if spec.kind != "sentencepiece":
        return [f"{number} texts and some more words to learn the rate from" for number in range(PROBES)]
    return probe_texts(scorer.bundle.read(spec.file), PROBES)


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client goes. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    if task.done():  # refused at once: nothing to watch
        return task.result()
    gone = asyncio.ensure_future(_gone_away(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone_away(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- errors ------------------------------------------------------------------------------------------------------


async def _api_error(request: Request, error: Any) -> Response:
    return JSONResponse(error_body(error.message, error.place), error.status, error.headers)


async def _busy(request: Request, error: Any) -> Response:
    headers = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
    return JSONResponse(error_body("the queue is full; try again later"), 429, headers)


async def _closed(request: Request, error: Any) -> Response:
    return JSONResponse(error_body("the server is stopping"), 503)


async def _item_failed(request: Request, error: Any) -> Response:
    log.error("scoring failed", exc_info=error.__cause__)
    place = "text" if request.scope["path"] != "/v1/score" else f"texts[{error.index}]"
    return JSONResponse(error_body("could not be scored", place), 500)


async def _http_error(request: Request, error: Any) -> Response:
    words = {404: "there is no such page", 405: "the path does not know this method"}
    return JSONResponse(error_body(words.get(error.status_code, str(error.detail))), error.status_code, error.headers)


async def _gone(request: Request, error: Any) -> Response:
    return Response(status_code=499)  # nobody reads it; the metrics have it
