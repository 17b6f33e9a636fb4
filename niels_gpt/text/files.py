"""Read text from files and from standard input, the same way everywhere.

Text is UTF-8, with or without a byte order mark. A line ends at a line feed, which a carriage return may
precede, and nowhere else: form feeds and the separators of Unicode, which `str.splitlines` takes for line
ends, are characters like any other.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from niels_gpt.errors import NielsGptError

_LONGEST = 1 << 28  # bytes of a file that is read whole
_SURROGATES = re.compile("[\ud800-\udfff]")
NOT_UTF8 = "{what} is not UTF-8: its wrong bytes are read as \N{REPLACEMENT CHARACTER}"
"""What to say where `replaced` changed a text."""

_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


class UnreadableTextError(NielsGptError):
    """A file that cannot be read, or that is not UTF-8 text."""


def read_text(path: Path, what: str) -> str:
    """Return the text of a file; its line ends become line feeds.

    Args:
        path: The file.
        what: What the file is, for the error: "the system prompt", "--prompts".

    Raises:
        UnreadableTextError: The file cannot be read, is not UTF-8, or is larger than 256 MiB.

    """
    where = f"{what} {str(path)!r}"
    try:
        with path.open("rb") as file:
            raw = file.read(_LONGEST + 1)
    except OSError as error:
        raise UnreadableTextError(f"cannot read {where}: {error.strerror or error}") from error
    if len(raw) > _LONGEST:  # a device may have no end
        raise UnreadableTextError(f"{where} is larger than {_LONGEST >> 20} MiB")
    return decoded(raw, where).replace("\r\n", "\n")


def read_lines(path: Path, what: str) -> list[str]:
    """Return the lines of a file without their ends; arguments and errors of `read_text`."""
    return lines_of(read_text(path, what))


def decoded(raw: bytes, where: str) -> str:
    """Return the text of a whole file's bytes, line ends as they are. Raises UnreadableTextError."""
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UnreadableTextError(
            f"{where} is not UTF-8 text: line {line} has the byte 0x{raw[error.start]:02x}; save it as UTF-8"
        ) from error


def lines_of(text: str) -> list[str]:
    """Return the lines of a text without their ends; a line end at the end of the text begins no line."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def replaced(text: bytes | str) -> tuple[str, bool]:
    """Return a text that was typed, piped in or given as an argument, and whether a part was replaced.

    Bytes that are not UTF-8 become U+FFFD, and so do lone surrogates, by which Python stands for such bytes
    in arguments and in lines of a terminal. A byte order mark at the beginning is dropped.
    """
    if isinstance(text, bytes):
        found = text.decode("utf-8", errors="replace")
        changed = found.encode() != text
    else:
        found = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
        changed = found != text
    return found.removeprefix(_MARK), changed
