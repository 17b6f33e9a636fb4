"""Run the server: uvicorn around the application, ended in order by SIGTERM or ctrl-c."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.opening import open_model, open_store
from niels_gpt.decoding.backend import Backend
from niels_gpt.server.app import Drain, make_app
from niels_gpt.server.options import ServeOptions
from sessions import Store

HEADER_BYTES = 32 * 1024


class _Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and notes when it was asked to end."""

    def __init__(self, config: uvicorn.Config, drain: Drain, announce: Callable[[str], object]) -> None:
        super().__init__(config)
        self._drain = drain
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load, listen, and announce the address."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            self._announce(f"http://{shown}:{port}/")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain."""
        self._drain.begin()
        super().handle_exit(sig, frame)


def serve(options: ServeOptions) -> int:
    """Load the model, serve until asked to end, and return 0. Raises LoadFailed."""
    with open_store(options.chat) as store:
        model = open_model(options.chat, on_progress=_say_preparing)
        try:
            run_server(
                options,
                store,
                model,
                announce=lambda url: print(f"niels-serve: {url}", file=sys.stderr, flush=True),
            )
        finally:
            model.close()
    return 0


def run_server(
    options: ServeOptions, store: Store, model: Backend, *, announce: Callable[[str], object]
) -> None:
    """Serve until asked to end; `announce` hears the address. Raises LoadFailed where it cannot listen."""
    drain = Drain()
    config = configured(make_app(options, store, model, drain=drain), options)
    try:
        _Server(config, drain, announce).run([config.bind_socket()])
    except SystemExit as stop:  # uvicorn has said why
        raise LoadFailed(f"cannot listen on {options.host}:{options.port}") from stop


def configured(app: FastAPI, options: ServeOptions) -> uvicorn.Config:
    """Return how uvicorn serves the application."""
    return uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http="h11",  # bounds the headers, which the faster parser does not
        h11_max_incomplete_event_size=HEADER_BYTES,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=options.max_connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(options.drain_seconds)),
    )


def _say_preparing(done: int, total: int) -> None:
    if done == 0:
        print(f"preparing {total} kernels for this processor (once) ...", file=sys.stderr, flush=True)
