"""Record the real program: keys into a pseudo-terminal, its screen out as an SVG.

    python -m tools.record_terminal docs/chat.svg [--ckpt PATH]

Nothing is drawn by hand: the picture is the screen of a terminal model after the keys below were typed and
the program had answered each of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pexpect
import pyte

from niels_gpt.paths import REPO_ROOT, SHIPPED_CHECKPOINT
from sessions import open_store

COLUMNS, ROWS = 80, 24
# What is typed, and what must be at the beginning of the last line when it was answered.
SCENE = (
    ("what is rope?\r", ">"),
    ("/temp 0\r", ">"),
    ("and why does attention need it?\r", ">"),
    ("/stats\r", ">"),
)
COLOURS = {"cyan": "#6cc7d8", "brightblack": "#7d828c"}
CELL, LINE, MARGIN = 8.4, 18, 12
SECONDS = 120.0


class Recording:
    """The program in a pseudo-terminal, and its screen."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        open_store(folder / "sessions.db").close()  # so that the chat does not say that it created one
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.Stream(self.screen)
        self._program = pexpect.spawn(
            sys.executable,
            ["-m", "niels_gpt.chat_cli", "--ckpt", str(checkpoint), "--session", "demo"],
            dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
            cwd=str(REPO_ROOT),
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(folder),
                "TERM": "xterm-256color",
                "XDG_DATA_HOME": str(folder),
                # The kernels are compiled already, or once for the next time.
                "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            },
        )
        # The program asks where the cursor is.
        self.screen.write_process_input = self._answer

    def play(self, scene: Sequence[tuple[str, str]]) -> None:
        """Type each line and wait until the program has answered and asks for the next."""
        self._until(lambda: "new session 'demo'" in self._text() and self._at_prompt("> Ask"))
        for keys, end in scene:
            self._program.send(keys)
            words = keys.strip()
            self._until(lambda words=words: words in self._text())
            self._until(lambda end=end: self._at_prompt(end))
        self._program.close(force=True)

    def _answer(self, data: str) -> None:
        self._program.send(data)

    def _text(self) -> str:
        return "\n".join(self.screen.display)

    def _at_prompt(self, end: str) -> bool:
        """Return whether the last line above the bottom one is a prompt, and the bottom one is drawn."""
        lines = [line.rstrip() for line in self.screen.display[:-1] if line.strip()]
        return (
            bool(lines)
            and (lines[-1] == end or (" " in end and lines[-1].startswith(end)))
            and bool(self.screen.display[-1].strip())
        )

    def _until(self, seen: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while not seen():
            if time.monotonic() > deadline:
                sys.exit("the program did not answer; its screen:\n" + self._text())
            try:
                self._stream.feed(self._program.read_nonblocking(4096, timeout=1))
            except pexpect.TIMEOUT:
                continue


def svg(screen: Any) -> str:
    """Return the screen as a picture."""
    width, height = COLUMNS * CELL + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    rows = "\n".join(_row(screen, row) for row in range(ROWS))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#16181d"/>\n'
        f'<g fill="#d7dae0">\n{rows}\n</g>\n</svg>\n'
    )


def _row(screen: Any, row: int) -> str:
    y = MARGIN + LINE * row + 14
    return "".join(
        # Browsers hand the preservation of blanks down to no text: each says it for itself.
        f'<text x="{MARGIN + CELL * start:.1f}" y="{y}" xml:space="preserve" '
        f'textLength="{CELL * len(text):.1f}"{style}>{escape(text)}</text>'
        for start, text, style in _runs(screen, row)
    )


def _runs(screen: Any, row: int) -> Iterator[tuple[int, str, str]]:
    """Yield where each run of equally styled characters begins, its text and its style."""
    cells = [(screen.buffer[row][column], column) for column in range(COLUMNS)]
    for (bold, colour), group in groupby(cells, key=lambda cell: (bool(cell[0].bold), cell[0].fg)):
        run = list(group)
        text = "".join(cell.data for cell, _ in run)
        if text.strip():
            start = run[0][1] + len(text) - len(text.lstrip())
            style = ' font-weight="bold"' if bold else ""
            style += f' fill="{COLOURS[colour]}"' if colour in COLOURS else ""
            yield start, text.strip(), style


def main() -> None:
    """Record the scene and write the picture."""
    parser = argparse.ArgumentParser(description="Record the chat as an SVG.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        recording = Recording(flags.ckpt, Path(name))
        recording.play(SCENE)
    flags.out.write_text(svg(recording.screen), encoding="utf-8")
    print(f"wrote {flags.out}, {flags.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
