"""Lines of a file descriptor with a scripted model: replies on one stream, the rest on the other."""

from __future__ import annotations

import asyncio
import errno
import io
import itertools
import json
import os
import time
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine import TokenGenerated, from_json
from niels_gpt import program
from niels_gpt.chat import pipe
from niels_gpt.chat.pipe import read_lines, run_pipe
from niels_gpt.cli.exit_codes import FAILED, OK
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen
from sessions import open_store


class Reader(io.StringIO):
    """A stream whose reader goes away after some writes."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError
        return super().write(text)


def piped(
    folder: Path, data: bytes, model: Any, replies: io.StringIO | None = None, **asked: Any
) -> tuple[bool, str, str]:
    replies = io.StringIO() if replies is None else replies
    notices = io.StringIO()
    source = folder / "input"
    source.write_bytes(data)
    options = ChatOptions(**{"session": "a", **asked})
    workspace = Workspace(
        options, open_store=lambda _: open_store(folder / "sessions.db"), load_model=lambda _: model
    )
    descriptor = os.open(source, os.O_RDONLY)
    try:
        screen = Screen(replies, notices, styled=False, only_replies=options.quiet)
        running = run_pipe(workspace, screen, descriptor, replies)
        fine = asyncio.run(asyncio.wait_for(running, 20)) == OK
    finally:
        os.close(descriptor)
        workspace.close()
    return fine, replies.getvalue(), notices.getvalue()


def test_the_replies_alone_go_to_the_output(tmp_path: Path, scripted: Any) -> None:
    fine, replies, notices = piped(
        tmp_path, b"one\n\n/temp 0\ntwo\r\n", scripted(["first"], ["sec", "ond\n"])
    )
    assert fine
    assert replies == "first\nsecond\n"
    assert (
        notices == "new session 'a'\ntemperature: 0 (greedy), was 0.9\nresume with: niels-chat --session a\n"
    )


def test_a_last_line_without_its_end_counts(tmp_path: Path, scripted: Any) -> None:
    assert piped(tmp_path, b"one\ntwo", scripted(["1"], ["2"]))[1] == "1\n2\n"


def test_exit_ends_it_before_the_rest(tmp_path: Path, scripted: Any) -> None:
    assert piped(tmp_path, b"one\n/exit\ntwo\n", scripted(["1"], ["2"]))[1] == "1\n"


def test_without_a_line_nothing_is_loaded_or_said(tmp_path: Path) -> None:
    assert piped(tmp_path, b"", None) == (True, "", "")
    assert not (tmp_path / "sessions.db").exists()


def test_bytes_that_are_not_utf8_are_replaced_and_told(tmp_path: Path, scripted: Any) -> None:
    model = scripted(["ok"])
    _, _, notices = piped(tmp_path, b"caf\xe9\n", model)
    assert "line 1 is not UTF-8" in notices
    with open_store(tmp_path / "sessions.db") as store:
        assert store.path(store.session("a").id)[1].content == "caf\N{REPLACEMENT CHARACTER}"


def test_a_message_of_a_megabyte_is_refused_and_the_next_line_answered(tmp_path: Path, scripted: Any) -> None:
    fine, replies, notices = piped(tmp_path, b"word " * 200_000 + b"\nhi\n", scripted(["hello"]))
    assert (fine, replies) == (False, "hello\n")
    assert "too long: 200001 tokens; 938 fit" in notices


def test_a_wrong_command_is_told_and_remembered_for_the_status(tmp_path: Path, scripted: Any) -> None:
    fine, replies, notices = piped(tmp_path, b"/tmep 1\nhi\n", scripted(["hello"]))
    assert (fine, replies) == (False, "hello\n")
    assert "did you mean /temp?" in notices


def test_when_nobody_reads_the_replies_any_more_what_was_said_is_kept(tmp_path: Path, scripted: Any) -> None:
    with pytest.raises(BrokenPipeError):
        piped(tmp_path, b"sing\n", scripted(itertools.repeat("la ")), replies=Reader(2))
    with open_store(tmp_path / "sessions.db") as store:
        reply = store.path(store.session("a").id)[-1]
    assert reply.status == "cancelled"
    assert reply.content.startswith("la la la ")


@pytest.mark.parametrize("asked", [{}, {"prompt": "hi"}, {"prompt": "hi", "as_events": True}])
def test_a_full_disk_behind_the_output_is_one_line_and_the_reply_is_kept(
    tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str], asked: dict[str, Any]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "<stdout>")

    def chat() -> int:
        return OK if piped(tmp_path, b"hi\n", scripted(["hello"]), Full(), **asked)[0] else FAILED

    assert program.run("niels-chat", chat) == FAILED
    said = "niels-chat: cannot write standard output: no space left on device\n"
    assert capsys.readouterr().err == said
    with open_store(tmp_path / "sessions.db") as store:
        assert [each.role for each in store.path(store.session("a").id)][-2:] == ["user", "assistant"]


def test_one_message_of_a_flag_is_sent_as_it_is(tmp_path: Path, scripted: Any) -> None:
    model = scripted(["first"])
    assert piped(tmp_path, b"", model, prompt="/help me") == (
        True,
        "first\n",
        "new session 'a'\nresume with: niels-chat --session a\n",
    )
    with open_store(tmp_path / "sessions.db") as store:
        assert store.path(store.session("a").id)[1].content == "/help me"


def test_a_dash_reads_the_message_to_the_end_of_the_input(tmp_path: Path, scripted: Any) -> None:
    piped(tmp_path, b"line one\nline two\n", scripted(), prompt="-")
    with open_store(tmp_path / "sessions.db") as store:
        assert store.path(store.session("a").id)[1].content == "line one\nline two"


def test_an_empty_message_is_refused(tmp_path: Path, scripted: Any) -> None:
    fine, replies, notices = piped(tmp_path, b"", scripted(), prompt="-")
    assert (fine, replies) == (False, "")
    assert "the message is empty" in notices


def test_quiet_leaves_the_replies_alone_and_errors_are_still_told(tmp_path: Path, scripted: Any) -> None:
    _, replies, notices = piped(
        tmp_path, b"/temp 0\nhi\n/stats\n/reset\n/tmep\n", scripted(["hello"]), quiet=True
    )
    assert replies == "hello\n"
    assert notices.startswith("unknown command /tmep")
    assert notices.count("\n") == 1


def test_json_prints_the_events_of_the_engine_and_nothing_else(tmp_path: Path, scripted: Any) -> None:
    fine, output, _ = piped(tmp_path, b"hi\n", scripted(["hel", "lo"]), as_events=True)
    *records, reply = [json.loads(line) for line in output.splitlines()]
    for record in [*records, reply]:
        assert abs(time.time() - datetime.fromisoformat(record.pop("time")).timestamp()) < 60
    events = [from_json(json.dumps(record)) for record in records]
    assert fine
    assert reply == {
        "event": "Reply", "session": "a", "text": "hello", "reason": "stop",
        "prompt_tokens": reply["prompt_tokens"], "reply_tokens": 3,
    }  # fmt: skip
    assert [type(event).__name__ for event in events[:2]] == ["JobQueued", "JobStarted"]
    assert "".join(event.text for event in events if isinstance(event, TokenGenerated)) == "hello"
    assert type(events[-1]).__name__ == "JobDone"
    assert [event.seq for event in events] == list(range(len(events)))


def test_turns_that_no_longer_fit_are_named(tmp_path: Path, scripted: Any) -> None:
    model = scripted(*([["word " * 10]] * 4), context_length=70)
    _, _, notices = piped(tmp_path, b"first question\nsecond\nthird\nfourth\n", model)
    # Once: from then on the status line counts them.
    assert notices.count("the context is full") == 1
    assert "(the context is full: the oldest turn 'first question' does not fit, and more will" in notices


def test_an_input_that_cannot_be_read_is_one_line_and_never_hangs(tmp_path: Path) -> None:
    async def first_line() -> bytes:
        return await anext(read_lines(descriptor))

    descriptor = os.open(tmp_path, os.O_RDONLY)  # a folder: EISDIR
    try:
        with pytest.raises(LoadFailed, match="standard input cannot be read: Is a directory"):
            asyncio.run(asyncio.wait_for(first_line(), 20))
    finally:
        os.close(descriptor)


def test_an_input_that_would_not_wait_is_waited_for() -> None:
    source, sink = os.pipe()
    os.set_blocking(source, False)

    async def lines() -> list[bytes]:
        asyncio.get_running_loop().call_later(0.01, lambda: (os.write(sink, b"one\ntwo"), os.close(sink)))
        return [line async for line in read_lines(source)]

    try:
        assert asyncio.run(asyncio.wait_for(lines(), 20)) == [b"one", b"two"]
    finally:
        os.close(source)


def test_lines_are_read_only_a_little_ahead() -> None:
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    written = 0

    async def first_line() -> bytes:
        nonlocal written
        async with aclosing(read_lines(source)) as lines:
            line = await anext(lines)
            with suppress(BlockingIOError):
                while written < 1 << 24:
                    written += os.write(sink, b"y\n" * 2048)
            return line

    os.write(sink, b"first\n")
    try:
        assert asyncio.run(asyncio.wait_for(first_line(), 20)) == b"first"
        assert written < 1 << 22
    finally:
        os.close(sink)
        os.close(source)


def test_a_long_line_is_read_in_time_in_proportion_to_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = 0
    monkeypatch.setattr(pipe, "_LONGEST", 1 << 23)

    class Counted(bytes):
        def split(self, *arguments: Any) -> Any:
            nonlocal copied
            copied += len(self)
            return super().split(*arguments)

    chunks = iter([*[Counted(b"x" * (1 << 16))] * 300, b"\nend\n", b""])
    # The reader of another test may still wait on its own descriptor.
    read, own = pipe._read, -1
    monkeypatch.setattr(pipe, "_read", lambda source: next(chunks) if source == own else read(source))
    longest, end = pipe._lines_of(own)
    assert copied == 300 << 16
    # No more is kept of a line than shows that it is too long.
    assert (len(longest), end) == ((1 << 23) + 1, b"end")


def test_a_line_that_is_too_long_is_refused_and_the_next_answered(
    tmp_path: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "_LONGEST", 1 << 20)
    fine, replies, notices = piped(tmp_path, b"w" * (1 << 21) + b"\nhi\n", scripted(["hello"]))
    assert (fine, replies) == (False, "hello\n")
    assert "line 1 is longer than 1 MiB: not sent" in notices


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, scripted: Any) -> None:
    model = scripted(["ok"])
    piped(tmp_path, b"\xef\xbb\xbf/temp 0\nhi\n", model)
    assert model.requests[0].sampling.temperature == 0
