"""Text on the clipboard: through a terminal that is known to take it, or with a program."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

from niels_gpt.terminal.clipboard import NoClipboardError, copy_text
from niels_gpt.terminal.markdown import first_code_block


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_a_known_terminal_takes_it_itself() -> None:
    terminal = Terminal()
    assert copy_text("naïve", terminal, {"TERM": "xterm-kitty"}) == "through the terminal"
    assert terminal.getvalue() == f"\x1b]52;c;{base64.b64encode('naïve'.encode()).decode()}\x07"


def test_elsewhere_a_program_that_can_work_here_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    program(tmp_path, "wl-copy", "exit 1")
    program(tmp_path, "xclip", f"cat > {tmp_path}/copied")
    terminal = Terminal()
    assert copy_text("a\nb", terminal, {"TERM": "xterm", "DISPLAY": ":0"}) == "with xclip"
    assert (tmp_path / "copied").read_text() == "a\nb"
    assert terminal.getvalue() == ""
    with pytest.raises(NoClipboardError, match="wl-copy' could not copy it"):
        copy_text("a", terminal, {"WAYLAND_DISPLAY": "w"})


def test_without_a_way_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoClipboardError, match="no clipboard"):
        copy_text("a", Terminal(), {"TERM": "xterm", "DISPLAY": ":0"})
    with pytest.raises(NoClipboardError, match="no clipboard"):
        copy_text("a", io.StringIO(), {"TERM": "xterm-kitty"})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("none", None),
        ("`x` is not ``a`` block", None),
        ("a\n```\none\n\ntwo\n```\n", "one\n\ntwo\n"),
        ("```py\nnever closed", "never closed"),
        ("````\n```\ninner\n```\n````\n", "```\ninner\n```\n"),
    ],
)
def test_the_first_code_block(text: str, code: str | None) -> None:
    assert first_code_block(text) == code
