"""Server-sent events: an append-only list of numbered frames, and the response that follows it.

A frame is rendered once for all readers. A reader is a position in the list, so that one that is slow, late
or gone costs nothing but its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.event_log import Notifier

FRAMES_AT_ONCE = 256
STALLED_SECONDS = 300.0


class Frames:
    """Frames numbered from 0; `tag` begins the id of each."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._frames: list[bytes] = []
        self._notifier = Notifier()
        self.closed = False

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, data: str, event: str | None = None) -> None:
        """Add a frame with one line of data and wake the readers."""
        name = "" if event is None else f"event: {event}\n"
        self._frames.append(f"id: {self._tag}:{len(self._frames)}\n{name}data: {data}\n\n".encode())
        self._notifier.notify_all()

    def close(self) -> None:
        """End all readers after the last frame."""
        self.closed = True
        self._notifier.notify_all()

    async def read(self, position: int) -> tuple[bytes, int]:
        """Wait for frames from `position` on; return their bytes and the position behind them.

        No bytes: the frames are closed and there are no more.
        """
        while position >= len(self._frames) and not self.closed:
            await self._notifier.wait()
        frames = self._frames[position : position + FRAMES_AT_ONCE]
        return b"".join(frames), position + len(frames)


class EventStream(Response):
    """Sends frames as they come, until they end or the client is gone.

    A send waits while the client does not read: what is unsent stays in the shared list. A client that reads
    nothing for `STALLED_SECONDS` is disconnected.
    """

    def __init__(
        self,
        frames: Frames,
        *,
        start: int = 0,
        following: Callable[[], AbstractContextManager[object]] = nullcontext,
        work: Callable[[], Coroutine[Any, Any, object]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`following` is entered, and `work` runs, while the client is connected."""
        # X-Accel-Buffering: a proxy must not hold events back.
        kept = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
        super().__init__(headers=kept, media_type="text/event-stream")
        del self.headers["content-length"]
        self._frames = frames
        self._start = start
        self._following = following
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Serve one client."""
        with self._following():
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                if self._work is not None:
                    tasks.start_soon(self._work)
                await self._send_frames(send)
                tasks.cancel_scope.cancel()

    async def _send_frames(self, send: Send) -> None:
        position = self._start
        while True:
            body, position = await self._frames.read(position)
            with anyio.move_on_after(STALLED_SECONDS) as limit:
                await send({"type": "http.response.body", "body": body, "more_body": bool(body)})
            if not body or limit.cancelled_caught:
                return


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel `scope` once the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
