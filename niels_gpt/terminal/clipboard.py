"""Put text on the user's clipboard: through the terminal (OSC 52), or with a program of the system."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import TextIO

from niels_gpt.errors import NielsGptError

_PROGRAMS = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    ("", ("pbcopy",)),
    ("", ("clip.exe",)),
)
"""A variable without which a program cannot work, and the program."""

# Terminals that take OSC 52 as they come. Others may, but none of them says so.
_TERMS = ("xterm-kitty", "xterm-ghostty", "alacritty", "foot", "wezterm", "contour")
_TERM_PROGRAMS = ("WezTerm", "ghostty", "rio", "Windows_Terminal")
_MOST_BYTES = 74_994  # what the strictest of these terminals takes
_SECONDS = 5


class NoClipboardError(NielsGptError):
    """Neither the terminal nor a program takes text to the clipboard."""


def copy_text(text: str, terminal: TextIO, environ: Mapping[str, str] = os.environ) -> str:
    """Copy a text, and return the way that it took.

    Args:
        text: What to copy.
        terminal: Standard output, a terminal or not.
        environ: The variables of the environment.

    Raises:
        NoClipboardError: There is no way, or the program failed.
    """
    raw = text.encode()
    if terminal.isatty() and _takes_osc_52(environ) and len(raw) <= _MOST_BYTES:
        terminal.write(f"\x1b]52;c;{base64.b64encode(raw).decode()}\x07")
        terminal.flush()
        return "through the terminal"
    for variable, words in _PROGRAMS:
        if (not variable or environ.get(variable)) and (path := shutil.which(words[0])) is not None:
            _run([path, *words[1:]], raw)
            return f"with {words[0]}"
    raise NoClipboardError(
        "no clipboard: this terminal is not known to set it, and wl-copy, xclip, xsel and pbcopy are missing"
    )


def _takes_osc_52(environ: Mapping[str, str]) -> bool:
    return environ.get("TERM", "").startswith(_TERMS) or environ.get("TERM_PROGRAM", "") in _TERM_PROGRAMS


def _run(words: list[str], raw: bytes) -> None:
    try:
        # Its own output goes nowhere: xclip stays behind as a process and would keep a pipe open.
        subprocess.run(  # noqa: S603 - a program of a literal list, found on the PATH
            words,
            input=raw,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoClipboardError(f"{words[0]!r} could not copy it: {error}") from error
