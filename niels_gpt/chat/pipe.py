"""The chat without a terminal: each line of input is a message, the replies alone go to the output.

Commands work, and everything else they or errors have to say goes to the other stream. Bytes that are not
UTF-8 are replaced, with a notice. Knows no prompt and no keys. For asyncio.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import anyio

from niels_gpt.chat.desk import Desk
from niels_gpt.chat.errors import LoadFailed
from niels_gpt.chat.loader import Loader
from niels_gpt.chat.options import Options
from niels_gpt.chat.render import Screen

_CHUNK = 1 << 16


async def run_pipe(options: Options, loader: Loader, screen: Screen, descriptor: int) -> bool:
    """Answer every line of a file descriptor; False if one of them went wrong.

    Raises LoadFailed, and BrokenPipeError when nobody reads the replies any more. Without a line nothing
    is loaded.
    """
    desk = Desk(options, loader, screen, recall=False)
    failure: LoadFailed | BrokenPipeError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.serve)
        # Caught inside, because a task group would wrap it.
        try:
            await _answer(desk, loader, screen, descriptor)
        except (LoadFailed, BrokenPipeError) as error:
            failure = error
        tasks.cancel_scope.cancel()
    desk.farewell()
    if failure is not None:
        raise failure
    return not desk.troubled


async def _answer(desk: Desk, loader: Loader, screen: Screen, descriptor: int) -> None:
    number = 0
    async for raw in read_lines(descriptor):
        number += 1
        line = raw.decode("utf-8", errors="replace")
        if line.encode() != raw:
            screen.notice(
                f"line {number} is not UTF-8: its wrong bytes are read as \N{REPLACEMENT CHARACTER}"
            )
        loader.start()
        await desk.handle(line)
        if desk.leaving:
            return


async def read_lines(descriptor: int) -> AsyncIterator[bytes]:
    """Yield the lines of a file descriptor without their ends; the last one may lack its end.

    A daemon thread reads: of all files and pipes, only a thread can wait, and it must not keep the process
    from ending while nothing comes.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(item: bytes | None) -> bool:
        try:
            loop.call_soon_threadsafe(lines.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody wants the rest
            return False
        return True

    def read() -> None:
        rest = b""
        while chunk := os.read(descriptor, _CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            if not all(put(line) for line in whole):
                return
        if rest:
            put(rest)
        put(None)

    threading.Thread(target=read, name="input", daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line.removesuffix(b"\r")
