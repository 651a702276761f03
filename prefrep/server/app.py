"""The application: routes, page and documentation around the models."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.middleware.cors import CORSMiddleware

from prefrep.server import protocols, refusals, routes
from prefrep.server.context import Context
from prefrep.server.docs import page as docs_page
from prefrep.server.groups import Groups
from prefrep.server.metrics import Metrics
from prefrep.server.models import Models
from prefrep.server.outer import Outer, read_tokens
from prefrep.server.rewards import Rewarder, read_anchors
from prefrep.server.settings import Serving

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def context(models: Models, settings: Serving, metrics: Metrics, examples: list[dict[str, Any]] | None = None) -> Context:
    """Return what the routes share.

    Raises:
        DataError: The file of anchors cannot be read.
    """
    groups = Groups(settings.group_size, settings.group_wait / 1000, lambda filled: metrics.groups.labels(filled).inc())
    return Context(models, settings, metrics, groups, Rewarder(groups, read_anchors(settings.anchors)), examples or [])


def create(shared: Context) -> Outer:
    """Return the application.

    Raises:
        DataError: The file of tokens cannot be read.
    """
    app = FastAPI(
        title="prefrep", version=version("prefrep"), docs_url=None, redoc_url=None, redirect_slashes=False,
        description="Preference models behind HTTP. Scores are log-odds in nats; errors are {\"error\": sentence}.",
    )  # fmt: skip
    refusals.install(app)
    app.include_router(routes.router(shared))
    app.include_router(protocols.router(shared))
    files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.suffix in KINDS}

    @app.get("/health", summary="The process answers")
    async def health() -> Response:
        return refusals.answer({"status": "ok"})

    @app.get("/ready", summary="All models are loaded")
    async def ready() -> Response:
        if not shared.models.ready:
            what = "the server is stopping" if shared.models.stopping else "the model is being loaded; try again in some seconds"
            raise refusals.Refusal(503, what, retry_after="2")
        return refusals.answer({"status": "ready", "models": list(shared.models.folders)})

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(shared.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", summary="The models, with their settings and versions")
    async def models() -> Response:
        return refusals.answer({"object": "list", "data": [each.about for each in shared.models.all()]})

    @app.get("/v1/examples", summary="Questions that the page offers", include_in_schema=False)
    async def examples() -> Response:
        return refusals.answer({"examples": shared.examples})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(docs_page(app.openapi()), media_type="text/html; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(files["index.html"], media_type=KINDS[".html"])

    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str, request: Request) -> Response:
        if name not in files:
            raise refusals.Refusal(404, refusals.WORDS[404])
        return Response(files[name], media_type=KINDS[Path(name).suffix])

    if shared.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(shared.settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    return Outer(app, shared.metrics, read_tokens(shared.settings.tokens))
