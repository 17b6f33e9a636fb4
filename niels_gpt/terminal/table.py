"""Format tables and paragraphs to the terminal's width, where a wide character takes two columns.

All text is made safe to print here, so a cell can hold any user's text.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from niels_gpt.terminal.line_wrapper import text_width
from niels_gpt.terminal.render import BOLD, DIM, PLAIN, may_style
from niels_gpt.text.control_characters import harmless

_GAP = "  "
_LEAST_REST = 12  # minimum useful width of the last cell of a row


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: `right` aligns numbers, `noun` is the counted thing if there is no heading."""

    title: str
    right: bool = False
    noun: str = ""

    def alone(self, cell: str) -> str:
        """Return a cell's text for use without its heading."""
        return f"{cell} {self.noun}{'' if cell == '1' else 's'}" if self.noun else cell


def width_of_output() -> int:
    """Return the maximum line width: COLUMNS, the terminal's width, or 80 without a terminal."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def one_line(text: str) -> str:
    """Return the text on one line, safe to print."""
    return harmless(" ".join(text.split()))


def cut(text: str, width: int) -> str:
    """Return a line cut to `width` columns, with an ellipsis if it was cut."""
    if text_width(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += text_width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return a line filled with blanks to `width` columns."""
    blanks = " " * (width - text_width(text))
    return blanks + text if right else text + blanks


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text wrapped at `width` columns, between words if possible."""
    for line in text.split("\n"):
        yield from _broken(line, width)


def packed(facts: Iterable[str], width: int) -> Iterator[str]:
    """Yield lines of facts separated by dots, broken between facts if possible."""
    line = ""
    for fact in facts:
        longer = f"{line} · {fact}" if line else fact
        if line and text_width(longer) > width:
            yield line
            longer = fact
        *whole, line = wrapped(longer, width)
        yield from whole
    yield line


def styled(text: str, style: str) -> str:
    """Return the text in a style of render.py if standard output supports styles."""
    return f"{style}{text}{PLAIN}" if text and may_style(sys.stdout, os.environ) else text


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a table's lines. The first cell is never cut, the last takes the remaining width.

    If there is no room for the last cell, each row becomes a few lines: the first cell, the middle cells
    separated by dots, and the last cell.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [
        max(text_width(text) for text in (column.title, *(row[n] for row in cells)))
        for n, column in enumerate(columns[:-1])
    ]
    rest = width - sum(widths) - len(_GAP) * len(widths)
    if rest < _LEAST_REST:
        return list(_stacked(columns, cells, width))
    heading = styled(_row([column.title for column in columns], columns, widths, rest), BOLD)
    return [heading, *(_row(row, columns, widths, rest) for row in cells)]


def _row(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], rest: int) -> str:
    fixed = (
        padded(cell, width, right=column.right)
        for cell, width, column in zip(cells, widths, columns, strict=False)
    )
    return _GAP.join([*fixed, cut(cells[-1], rest)]).rstrip()


def _stacked(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    for first, *between, last in rows:
        yield from (styled(line, BOLD) for line in wrapped(first, width))
        inner = zip(columns[1:-1], between, strict=True)
        details = packed((column.alone(cell) for column, cell in inner), width - 2)
        yield from (styled(f"  {line}", DIM) for line in details)
        if last:
            yield "  " + cut(last, width - 2)


def _broken(line: str, width: int) -> Iterator[str]:
    """Yield one line in pieces, broken after the last blank that fits, or in mid-word if there is none."""
    start = 0
    while (end := _fitting(line, start, width)) < len(line):
        blank = line.rfind(" ", start + 1, end + 1)
        end = max(end, start + 1) if blank < 0 else blank
        yield line[start:end].rstrip()
        start = end
        while line.startswith(" ", start):
            start += 1
    yield line[start:]


def _fitting(line: str, start: int, width: int) -> int:
    """Return the end of the longest part of a line from `start` that fits into `width` columns."""
    used = 0
    for at in range(start, len(line)):
        used += text_width(line[at])
        if used > width:
            return at
    return len(line)


def local_time(moment: datetime) -> str:
    """Return a moment in the user's own time zone, to the minute."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: `counted(1, "turn")` is "1 turn"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
