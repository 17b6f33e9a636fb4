"""Write sessions as a Markdown document. Every message is a quotation, so its text cannot end it.

Text is unchanged, a reply's Markdown included; only HTML is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sessions.formats.json_lines import Output
from sessions.formats.rendering import entries, summary, visible
from sessions.records import SessionArchive

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def write(archives: Sequence[SessionArchive], file: Output) -> None:
    """Write the sessions one after the other."""
    for number, archive in enumerate(archives):
        file.write(("\n" if number else "") + f"# {_plain(archive.session.name)}\n\n")
        for name, value in summary(archive):
            file.write(f"- {name}: {_plain(value)}\n")
        for entry in entries(archive):
            file.write(f"\n**{entry.speaker}**\n\n{_quotation(entry.text)}\n")
            if entry.facts:
                file.write(f"\n<sub>{_plain(entry.facts)}</sub>\n")


def _plain(text: str) -> str:
    """Return one line with all Markdown characters escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(visible(text).split()))


def _quotation(text: str) -> str:
    fence = ""
    lines: list[str] = []
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if fence:
            fence = "" if found and found[1].startswith(fence) else fence
            safe = line
        elif found:
            fence = found[1]
            safe = line
        else:
            safe = _without_html(line)
        lines.append(f"> {safe}".rstrip())
    return "\n".join(lines)


def _without_html(line: str) -> str:
    """Return the line with each "<" outside of code spans as an entity."""
    parts: list[str] = []
    end = 0
    for code in _CODE.finditer(line):
        parts += [line[end : code.start()].replace("<", "&lt;"), code[0]]
        end = code.end()
    return "".join([*parts, line[end:].replace("<", "&lt;")])
