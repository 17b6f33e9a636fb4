"""The composition root: options in, an application out; the model and the engine live as long as it runs."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine import Engine
from niels_gpt.conversation.settings import Settings
from niels_gpt.server import native_api, native_turns, openai_api
from niels_gpt.server.errors import HANDLERS
from niels_gpt.server.guard import Guard
from niels_gpt.server.metrics import Metrics
from niels_gpt.server.options import ServeOptions
from niels_gpt.server.plans import ServerPlanner
from niels_gpt.server.replies import Replies
from niels_gpt.server.state import ServerState
from niels_gpt.server.takeover import Takeover
from sessions import Store

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend

PAGE = Path(__file__).with_name("page")

_SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Drain:
    """When a server was asked to end; None while it was not."""

    def __init__(self) -> None:
        self.since: float | None = None

    def begin(self) -> None:
        """Note the moment, once."""
        if self.since is None:
            self.since = time.monotonic()

    def left(self, seconds: float) -> float:
        """Return how many of the seconds are left."""
        return seconds if self.since is None else max(0.0, self.since + seconds - time.monotonic())


def make_app(
    options: ServeOptions,
    store: Store,
    model: Backend,
    *,
    drain: Drain | None = None,
) -> FastAPI:
    """Return the application. The caller closes the store and the model after it has ended."""
    draining = drain or Drain()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics = Metrics()
        checkpoint_id = await anyio.to_thread.run_sync(lambda: store.remember_checkpoint(**model.checkpoint))
        planner = ServerPlanner(model, checkpoint_id)
        decoder: Any = model.decoder
        async with (
            anyio.create_task_group() as tasks,
            Engine(decoder, max_batch=options.max_batch, max_queue=options.max_queue) as engine,
        ):
            metrics.read_from(engine.statistics)
            replies = Replies(
                store=store,
                planner=planner,
                engine=engine,
                tasks=tasks,
                metrics=metrics,
                most_jobs=options.max_batch + options.max_queue,
                deadline=options.reply_seconds,
            )
            app.state.server = ServerState(
                options=options,
                store=store,
                model=model,
                engine=engine,
                planner=planner,
                replies=replies,
                metrics=metrics,
                settings=Settings().with_values({**options.chat.defaults, **options.chat.settings}),
                judging=anyio.Semaphore(1),
            )
            gc.freeze()
            claims = store.claims()
            async with anyio.create_task_group() as looking:
                if claims is not None:
                    looking.start_soon(Takeover(store, replies, claims).run)
                yield
                looking.cancel_scope.cancel()
            with anyio.move_on_after(draining.left(options.drain_seconds)):
                await engine.drain()
            if claims is not None:
                claims.close()
            # Leaving the engine cancels what still runs; stored replies stay pending, to be made again.

    app = FastAPI(
        title="niels-serve",
        description="Chat with a language model on your own machine. A seed gives the same bytes again.",
        version="1",
        lifespan=lifespan,
        exception_handlers=HANDLERS,  # pyright: ignore[reportArgumentType] - a subclass each, as registered
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(openai_api.router)
    app.include_router(native_api.router, prefix="/api")
    app.include_router(native_turns.router, prefix="/api")
    _add_own(app)
    app.add_middleware(_SecurityHeaders)
    if options.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.allowed_origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "last-event-id"],
            expose_headers=["x-niels-reply"],
        )
    app.add_middleware(Guard, options=options)  # pyright: ignore[reportArgumentType] - as Starlette documents
    return app


def _add_own(app: FastAPI) -> None:
    """Add the health check, the metrics and the page."""

    @app.get("/health")
    def health() -> dict[str, str]:
        """Answer once the model is loaded."""
        return {"status": "ok"}

    @app.get("/metrics")
    def metrics() -> Response:
        """Return what Prometheus reads."""
        server: ServerState = app.state.server
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        """Return the page."""
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE), name="page")


class _SecurityHeaders:
    """Adds to every answer what keeps a browser from doing more with it than the page needs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in _SECURITY.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
