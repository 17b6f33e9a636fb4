"""Chat without a terminal: one message of a flag, or each line of input; only replies go to the output.

Commands in lines work, and everything else they or errors have to say goes to the other stream. Instead of
the replies' text the engine's events can be printed, one JSON object a line. Bytes that are not UTF-8 are
replaced, with a notice. For asyncio.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import select
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TextIO

import anyio

from niels_gpt.chat.controller import Controller
from niels_gpt.chat.signals import ending_on_signals
from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.cli.options import FROM_INPUT
from niels_gpt.conversation.errors import ChatError, LoadFailed
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen
from niels_gpt.text.attachments import Attachment
from niels_gpt.text.files import NOT_UTF8, replaced

if TYPE_CHECKING:
    from engine import Event
    from niels_gpt.conversation.conversation import TurnResult

_CHUNK = 1 << 16
_AHEAD = 64  # lines that are read before the first of them is answered
_LONGEST = 1 << 26
_PATIENCE = 2.0
_WAITING = "(waiting for the end of standard input, which goes with the message; < /dev/null gives none)"


async def run_pipe(workspace: Workspace, screen: Screen, descriptor: int, output: TextIO) -> int:
    """Answer the message of the options, or every line of a file descriptor; return the exit status.

    Without a message nothing is loaded.

    Args:
        workspace: What answers, and the options.
        screen: Where replies and everything else go.
        descriptor: Where lines come from.
        output: Where the events go, if those are asked for.

    Raises:
        LoadFailed: The store or the checkpoint cannot be used, or the input cannot be read.
        BrokenPipeError: Nobody reads the replies any more.
    """
    options = workspace.options
    on_event = partial(_print_event, output) if options.as_events else None
    on_reply = partial(_print_reply, output, workspace) if options.as_events else lambda _: None
    chat = Controller(workspace, screen, recall=False, on_event=on_event, on_reply=on_reply)
    failure: LoadFailed | BrokenPipeError | None = None
    status: int | None = None
    async with anyio.create_task_group() as tasks:
        with ending_on_signals(tasks.cancel_scope) as ending:
            tasks.start_soon(chat.serve)
            # Caught inside, because a task group would wrap it.
            try:
                if options.prompt is None:
                    await _answer_lines(chat, workspace, screen, descriptor)
                else:
                    await _answer_one(chat, workspace, screen, options.prompt, descriptor)
            except (LoadFailed, BrokenPipeError) as error:
                failure = error
            finally:
                status = ending.status
            tasks.cancel_scope.cancel()
    await chat.end()
    if failure is not None:
        raise failure
    if status is not None:
        return status
    return FAILED if chat.troubled else OK


def _print_event(output: TextIO, event: Event) -> None:
    from engine import to_json  # noqa: PLC0415 - where there is an event, it is imported

    _print_line(output, json.loads(to_json(event)))


def _print_reply(output: TextIO, workspace: Workspace, result: TurnResult) -> None:
    """Print the whole reply, after the events that made it."""
    session = workspace.session
    record = {
        "event": "Reply",
        "session": None if session is None or workspace.options.ephemeral else session.name,
        "text": result.message.content,
        "reason": result.reason,
        "prompt_tokens": result.prompt_tokens,
        "reply_tokens": len(result.message.token_ids or ()),
    }
    _print_line(output, record)


def _print_line(output: TextIO, record: Mapping[str, object]) -> None:
    """Print a record with the time of day: `at` of an event is good for differences only."""
    output.write(json.dumps({**record, "time": datetime.now(UTC).isoformat()}, allow_nan=False) + "\n")
    output.flush()


async def _answer_one(
    chat: Controller, workspace: Workspace, screen: Screen, prompt: str, descriptor: int
) -> None:
    workspace.start()
    # Who started this from a program may not know that its own standard input is handed down.
    reminder = asyncio.get_running_loop().call_later(_PATIENCE, screen.notice, _WAITING)
    try:
        lines = [line async for line in read_lines(descriptor)]
    finally:
        reminder.cancel()
    try:
        if prompt == FROM_INPUT:
            prompt = _decoded(b"\n".join(lines), screen, "the message")
        else:
            prompt = _decoded(prompt, screen, "the message")
            piped = _decoded(b"\n".join(lines), screen, "standard input")
            if piped.strip():
                chat.attach(Attachment(name="standard input", text=piped))
    except ChatError as error:
        chat.error(str(error))
        return
    if prompt.strip():
        await chat.send(prompt.strip())
    else:
        chat.error("the message is empty: give -p a text, or - and a text on standard input")


async def _answer_lines(chat: Controller, workspace: Workspace, screen: Screen, descriptor: int) -> None:
    number = 0
    async with aclosing(read_lines(descriptor)) as lines:
        async for raw in lines:
            number += 1
            workspace.start()
            try:
                line = _decoded(raw, screen, f"line {number}")
            except ChatError as error:
                chat.error(str(error))
                continue
            await chat.handle(line)
            if chat.leaving:
                return


def _decoded(raw: bytes | str, screen: Screen, what: str) -> str:
    if len(raw) > _LONGEST:
        raise ChatError(f"{what} is longer than {_LONGEST >> 20} MiB: not sent")
    text, changed = replaced(raw)
    if changed:
        screen.notice(NOT_UTF8.format(what=what))
    return text


async def read_lines(descriptor: int) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a file descriptor without their ends; the last one may lack its end.

    A byte order mark at the beginning is left out, and of a line nothing beyond a byte more than the longest
    that is answered is kept. A daemon thread reads: of all files and pipes, only a thread can wait, and it
    must not keep the process from ending while nothing comes. It stays a few lines ahead and then waits.

    Raises:
        LoadFailed: The input cannot be read.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | OSError | None] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)
    closed = threading.Event()

    def put(item: bytes | OSError | None) -> bool:
        room.acquire()
        if closed.is_set():
            return False
        try:
            loop.call_soon_threadsafe(lines.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody wants the rest
            return False
        return True

    def read() -> None:
        try:
            if all(put(line) for line in _lines_of(descriptor)):
                put(None)
        except OSError as error:
            put(error)

    threading.Thread(target=read, name="input", daemon=True).start()
    try:
        while (line := await lines.get()) is not None:
            room.release()
            if isinstance(line, OSError):
                raise LoadFailed(f"standard input cannot be read: {line.strerror or line}") from line
            yield line
    finally:
        closed.set()
        room.release()


def _lines_of(descriptor: int) -> Iterator[bytes]:
    """Yield lines; the work is in proportion to the bytes, however long a line is."""
    parts: list[bytes] = []
    size, first = 0, True

    def line() -> bytes:
        nonlocal size, first
        whole = b"".join(parts).removesuffix(b"\r")
        parts.clear()
        size = 0
        if first:
            whole, first = whole.removeprefix(codecs.BOM_UTF8), False
        return whole

    while chunk := _read(descriptor):
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            parts.append(piece[: _LONGEST + 1 - size])
            yield line()
        if rest and size <= _LONGEST:
            parts.append(rest[: _LONGEST + 1 - size])
            size += len(parts[-1])
    if parts:
        yield line()


def _read(descriptor: int) -> bytes:
    """Return the next bytes, none at the end; waits where the descriptor would not."""
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:
            select.select([descriptor], [], [])
