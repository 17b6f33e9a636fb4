"""The chat without a terminal: one message of a flag, or each line of input; replies alone on the output.

Commands in lines work, and everything else they or errors have to say goes to the other stream. Instead of
the replies' text the engine's events can be printed, one JSON object a line. Bytes that are not UTF-8 are
replaced, with a notice. For asyncio.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, TextIO

import anyio

from niels_gpt.chat.controller import Controller
from niels_gpt.chat.signals import ending_on_signals
from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.cli.options import FROM_INPUT
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.loader import Loader
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.terminal.render import Screen
from niels_gpt.text.files import NOT_UTF8, replaced

if TYPE_CHECKING:
    from engine import Event

_CHUNK = 1 << 16


async def run_pipe(
    options: ChatOptions, loader: Loader, screen: Screen, descriptor: int, output: TextIO
) -> int:
    """Answer the message of the options, or every line of a file descriptor; return the exit status.

    `output` takes the events if those are asked for. Raises LoadFailed, and BrokenPipeError when nobody reads
    the replies any more. Without a message nothing is loaded.
    """
    on_event = partial(_print_event, output) if options.as_events else None
    desk = Controller(options, loader, screen, recall=False, on_event=on_event)
    failure: LoadFailed | BrokenPipeError | None = None
    status: int | None = None
    async with anyio.create_task_group() as tasks:
        with ending_on_signals(tasks.cancel_scope) as ending:
            tasks.start_soon(desk.serve)
            # Caught inside, because a task group would wrap it.
            try:
                if options.prompt is None:
                    await _answer_lines(desk, loader, screen, descriptor)
                else:
                    await _answer_one(desk, loader, screen, options.prompt, descriptor)
            except (LoadFailed, BrokenPipeError) as error:
                failure = error
            finally:
                status = ending.status
            tasks.cancel_scope.cancel()
    desk.farewell()
    if failure is not None:
        raise failure
    if status is not None:
        return status
    return FAILED if desk.troubled else OK


def _print_event(output: TextIO, event: Event) -> None:
    from engine import to_json  # noqa: PLC0415 - where there is an event, it is imported

    output.write(to_json(event) + "\n")
    output.flush()


async def _answer_one(desk: Controller, loader: Loader, screen: Screen, prompt: str, descriptor: int) -> None:
    loader.start()
    if prompt == FROM_INPUT:
        lines = [line async for line in read_lines(descriptor)]
        prompt = _decoded(b"\n".join(lines), screen, "the message")
    else:
        prompt = _decoded(prompt, screen, "the message")
    if prompt.strip():
        await desk.send(prompt.strip())
    else:
        desk.error("the message is empty: give -p a text, or - and a text on standard input")


async def _answer_lines(desk: Controller, loader: Loader, screen: Screen, descriptor: int) -> None:
    number = 0
    async for raw in read_lines(descriptor):
        number += 1
        loader.start()
        await desk.handle(_decoded(raw, screen, f"line {number}"))
        if desk.leaving:
            return


def _decoded(raw: bytes | str, screen: Screen, what: str) -> str:
    text, changed = replaced(raw)
    if changed:
        screen.notice(NOT_UTF8.format(what=what))
    return text


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
