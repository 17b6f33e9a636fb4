"""Random replies through the real text stream and screen, random keys through the headless chat.

    python -m tests.chat.fuzz_campaign --replies 100000 --keys 10000

A short version runs in the suite. Of each reply: the deltas concatenate to its text, no control character
of it reaches the terminal, nothing of it is missing there. Of the keys: no crash, and every message that was
handled is stored, in order. A failure names the seed that repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from niels_gpt.chat.commands.registry import Say, parse
from niels_gpt.chat.repl import Repl
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.line_wrapper import width_of
from niels_gpt.terminal.render import Screen
from niels_gpt.text.control_characters import harmless
from niels_gpt.text.detokenizer import Detokenizer
from sessions import open_store
from tests.chat.scripted_model import ScriptedModel

FRAGMENTS = [
    b"\x1b[2J", b"\x1b]52;c;aGk=\x07", b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", b"\x9b31m", b"\xc2\x9b2J",
    b"\x1bP1q\x1b\\", b"\x07", b"\r", b"\r\n", b"\n", b"\t", b"\x08\x08", b"\x7f", b"\x00", b"\xe2\x80\xae",
    b"\xe2\x81\xa6", b"\xe2\x80\xa8", b"\xff\xfe", "👩‍👩 ".encode(), b"\xf0\x9f",
    "日本語".encode(), "naïve ".encode(), b"**bold** ", b"`code` ", b"\n# head\n", b"\n```\ncode\n```\n",
    b"* ", b"_", b"\nuser", b"\nuser: ", b"\nus", b" the quick brown fox", b"word", b" ", b"    ", b"https://a.org/b/c",
]  # fmt: skip
STOPS = (b"\nuser: ", b"\nsystem: ")
# What the program itself may send: styles, and taking back a word or a line.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[(?P<back>\d+)D\x1b\[K|\r\x1b\[K")
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
KEYS = [
    *"abcdefgh  xyz", "/temp 0.5", "/he", "//", "日", "\r", "\r", "\x03", "\x1b", "\x1b\r", "\n", "\t",
    "\x1b[200~two\nlines\x1b[201~", "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x12", "\x15", "\x0b", "\x19",
    "\x01", "\x05", "\x7f", "\x1bb", "\x1bd", "\x1b[3~", "\x14", "\x1f", "/vi on\r", "/vi off\r",
    "/keep_stopped off\r", "/stats\r",
]  # fmt: skip


def random_reply(dice: random.Random) -> bytes:
    """Return hostile fragments, text and random bytes in a row."""
    parts = [
        dice.choice(FRAGMENTS) if dice.random() < 0.8 else dice.randbytes(dice.randint(1, 6))
        for _ in range(dice.randint(1, 14))
    ]
    return b"".join(parts)


def random_tokens(dice: random.Random, data: bytes) -> list[bytes]:
    """Return the bytes cut anywhere."""
    tokens: list[bytes] = []
    while data:
        cut = dice.randint(1, 7)
        tokens.append(data[:cut])
        data = data[cut:]
    return tokens


def said(data: bytes) -> str:
    """Return the text of a reply: everything before the first stop sequence."""
    ends = [(at + len(stop), at) for stop in STOPS if (at := data.find(stop)) >= 0]
    return data[: min(ends)[1] if ends else len(data)].decode("utf-8", errors="replace")


def settled(printed: str) -> str:
    """Return what stands on the terminal once words that were taken back are gone."""
    lines: list[str] = []
    at = 0
    for found in OWN.finditer(printed):
        lines.extend(printed[at : found.start()])
        at = found.end()
        back = int(found["back"] or 0)
        while back > 0:
            back -= width_of(lines.pop())
    return "".join(lines) + printed[at:]


def check_reply(seed: int, screen_class: type[Screen] = Screen) -> None:
    """Send one random reply through the text stream and a screen; AssertionError names what was wrong."""
    dice = random.Random(seed)
    data = random_reply(dice)
    tokens = random_tokens(dice, data)
    columns = dice.choice([None, 3, 10, 40, 80])
    out = io.StringIO()
    width = None if columns is None else lambda: columns
    screen = screen_class(out, out, styled=columns is not None, columns=width)
    markdown = dice.random() < 0.5 and screen.render_markdown(wanted=True)
    assembler = Detokenizer(tokens.__getitem__, STOPS)
    deltas = [assembler.push(number) for number in range(len(tokens))] + [assembler.finish()]
    for delta in deltas:
        screen.text(delta)
    screen.end_reply()
    text, printed = "".join(deltas), out.getvalue()
    assert text == said(data), f"seed {seed}: the deltas are {text!r}, not {said(data)!r}"
    shown = settled(printed)
    assert not FORBIDDEN.search(shown), f"seed {seed}: a raw control character in {printed!r}"
    expected = harmless(text)
    if columns is None:
        assert shown.removesuffix("\n") == expected.removesuffix("\n"), f"seed {seed}: {shown!r}"
    elif markdown:
        assert is_within("".join(shown.split()), "".join(expected.split())), f"seed {seed}: {shown!r}"
    else:
        assert "".join(shown.split()) == "".join(expected.split()), f"seed {seed}: {shown!r}"


def is_within(shorter: str, longer: str) -> bool:
    """Return whether the longer text is the shorter one and Markdown's marks."""
    rest = iter(longer)
    marks = "*`#"
    for character in shorter:
        for other in rest:
            if other == character:
                break
            if other not in marks:
                return False
        else:
            return False
    return all(other in marks for other in rest)


def scripts(dice: random.Random) -> Iterator[list[str]]:
    """Yield what the model answers: now and then something long enough to be stopped."""
    while True:
        pieces = [each.decode("utf-8", errors="replace") for each in random_tokens(dice, random_reply(dice))]
        yield pieces * (30 if dice.random() < 0.2 else 1)


class WatchedRepl(Repl):
    """Remembers which messages were handled to their end, and which were stopped."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.handled: list[str] = []
        self.asked: list[str] = []
        handle = self._chat.handle

        async def watched(line: str) -> None:
            meaning = parse(line)
            if isinstance(meaning, Say):
                self.asked.append(meaning.text)
            await handle(line)
            if isinstance(meaning, Say):
                self.handled.append(meaning.text)

        self._chat.handle = watched  # type: ignore[method-assign]


def check_keys(seed: int, sequences: int, folder: Path) -> int:
    """Type random sequences into one chat and return how many messages came of it."""
    dice = random.Random(seed)
    options = ChatOptions(session="fuzz")
    model = ScriptedModel(iter(scripts(dice)), context_length=10**7)
    path = folder / f"{seed}.db"
    workspace = Workspace(options, open_store=lambda _: open_store(path), load_model=lambda _: model)
    typed = [dice.choices(KEYS, k=dice.randint(1, 20)) for _ in range(sequences)]
    out = io.StringIO()
    with ExitStack() as stack:
        keyboard = stack.enter_context(create_pipe_input())
        stack.enter_context(create_app_session(input=keyboard, output=DummyOutput()))
        screen = Screen(out, out, styled=True, columns=lambda: 60)
        repl = WatchedRepl(
            workspace, screen, history=InMemoryHistory(), keyboard=keyboard, display=DummyOutput()
        )

        async def type_all() -> None:
            for keys in typed:
                keyboard.send_text("".join(keys))
                await asyncio.sleep(dice.random() * 0.01)
            # Out of whatever mode the keys led to, then out of the chat; again if that became a message.
            for _ in itertools.count():
                keyboard.send_text("\x03\x03")
                await asyncio.sleep(0.05)
                keyboard.send_text("\x1b[F\x15/exit\r")
                await asyncio.sleep(0.05)

        async def chat() -> None:
            typing = asyncio.ensure_future(type_all())
            try:
                await asyncio.wait_for(repl.run(), 300)
            finally:
                typing.cancel()

        try:
            asyncio.run(chat())
        finally:
            workspace.close()
    assert not FORBIDDEN.search(settled(out.getvalue())), (
        f"seed {seed}: a raw control character on the screen"
    )
    check_stored(seed, path, repl)
    return len(repl.asked)


def check_stored(seed: int, path: Path, repl: Any) -> None:
    """Every message that was handled is stored, in order; one that was stopped may be."""
    with open_store(path) as store:
        names = store.names()
        stored = [each.content for each in store.path(store.session("fuzz").id)] if names else []
    rest = iter(stored)
    assert all(any(each == message for each in rest) for message in repl.handled), f"seed {seed}: lost"


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description="Fuzz the chat.")
    parser.add_argument("--replies", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=10_000, help="how many sequences of keys")
    parser.add_argument("--per-chat", type=int, default=100, help="how many of them in one chat")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    # Random keys may open the editor: one that leaves the message as it is.
    os.environ["VISUAL"] = os.environ["EDITOR"] = "true"
    started = time.perf_counter()
    for seed in range(flags.seed, flags.seed + flags.replies):
        check_reply(seed)
    print(
        f"{flags.replies} replies: faithful, no raw control character ({time.perf_counter() - started:.0f} s)"
    )
    started, messages = time.perf_counter(), 0
    chats = -(-flags.keys // flags.per_chat)
    with tempfile.TemporaryDirectory() as name:
        for seed in range(flags.seed, flags.seed + chats):
            messages += check_keys(seed, flags.per_chat, Path(name))
    seconds = time.perf_counter() - started
    print(
        f"{chats * flags.per_chat} sequences of keys in {chats} chats, {messages} messages: "
        f"no crash, none lost ({seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
