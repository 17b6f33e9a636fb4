"""What is typed before the prompt, on a real terminal device."""

from __future__ import annotations

import os
import sys

import pytest

from niels_gpt.chat.early_input import single_keys

termios = pytest.importorskip("termios")


def test_what_was_typed_before_is_handed_on_as_keys_and_the_terminal_is_given_back() -> None:
    master, slave = os.openpty()
    try:
        before = termios.tcgetattr(slave)
        os.write(master, b"what is rope?\r")  # the terminal makes a newline of the Enter
        with single_keys(slave) as typed:
            assert typed == b"what is rope?\r"
            inside = termios.tcgetattr(slave)
            assert not inside[3] & (termios.ECHO | termios.ICANON)
            assert not inside[0] & termios.ICRNL
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_where_there_is_no_terminal_nothing_happens() -> None:
    source, sink = os.pipe()
    try:
        with single_keys(source) as typed:
            assert typed == b""
    finally:
        os.close(source)
        os.close(sink)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_nothing_waiting_is_nothing() -> None:
    master, slave = os.openpty()
    try:
        with single_keys(slave) as typed:
            assert typed == b""
    finally:
        os.close(master)
        os.close(slave)
