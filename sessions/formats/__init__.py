"""Read and write sessions in the file formats of this program and others, listed in one table.

A format converts files to `SessionArchive` values and back; only `Store` stores them. An unexpected value
raises ImportRefused, which names the line and the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sessions.formats import chatgpt, html, llm_logs, markdown, native
from sessions.formats.errors import ExportRefused, ImportRefused
from sessions.formats.field_validation import Fields
from sessions.formats.json_lines import Output
from sessions.formats.json_reader import Source
from sessions.formats.limits import Limits
from sessions.formats.messages import OPENAI, SHAREGPT
from sessions.records import SessionArchive

Writer = Callable[[Sequence[SessionArchive], Output], None]
Reader = Callable[[Source], Iterator[SessionArchive]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row of the table; `write` or `read` is None if the format does not support it."""

    name: str
    summary: str
    suffix: str
    write: Writer | None = None
    read: Reader | None = None
    matches: Callable[[Fields], bool] | None = None
    """Whether a file with this first record looks like this format; tried in the table's order."""


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format(
            name="jsonl",
            summary="our own: JSON lines that lose nothing, verify and replay",
            suffix=".jsonl",
            write=native.write,
            read=native.read,
            matches=native.is_ours,
        ),
        Format(
            name="openai",
            summary='JSON lines of {"messages": [{"role", "content"}]}',
            suffix=".jsonl",
            write=OPENAI.write,
            read=OPENAI.read,
            matches=OPENAI.matches,
        ),
        Format(
            name="sharegpt",
            summary='JSON lines, or an array, of {"conversations": [{"from", "value"}]}',
            suffix=".jsonl",
            write=SHAREGPT.write,
            read=SHAREGPT.read,
            matches=SHAREGPT.matches,
        ),
        Format(
            name="chatgpt",
            summary="the conversations.json of a ChatGPT data export",
            suffix=".json",
            read=chatgpt.read,
            matches=chatgpt.is_chatgpt,
        ),
        Format(
            name="llm",
            summary="the logs database of the llm command line tool",
            suffix=".db",
            read=llm_logs.read,
        ),
        Format(name="markdown", summary="a document to read", suffix=".md", write=markdown.write),
        Format(name="html", summary="a page to read, light and dark", suffix=".html", write=html.write),
    )
}

WRITABLE = tuple(name for name, each in FORMATS.items() if each.write is not None)
READABLE = tuple(name for name, each in FORMATS.items() if each.read is not None)


def write_sessions(archives: Sequence[SessionArchive], file: Output, *, format_name: str) -> None:
    """Write sessions in a format of WRITABLE. Raises ExportRefused for an unknown format."""
    chosen = FORMATS.get(format_name)
    if chosen is None or chosen.write is None:
        raise ExportRefused(f"{format_name!r} cannot be written; expected one of {', '.join(WRITABLE)}")
    chosen.write(archives, file)


def read_sessions(source: Source, *, format_name: str = "auto") -> Iterator[SessionArchive]:
    """Yield the sessions of a file in a format of READABLE; "auto" detects the format.

    Unsupported content is counted in `source.left_out`. Unreadable pieces are added to `source.skipped` if
    the source skips them.

    Raises ImportRefused for an unexpected value, before or between the sessions that it yields.
    """
    chosen = detected(source) if format_name == "auto" else FORMATS.get(format_name)
    if chosen is None or chosen.read is None:
        raise ImportRefused(
            source.name, "", f"{format_name!r} cannot be read; expected auto or one of {', '.join(READABLE)}"
        )
    return chosen.read(source)


def detected(source: Source) -> Format:
    """Detect the format of a file. Raises ImportRefused if it matches no format."""
    if llm_logs.is_sqlite(source):
        return FORMATS["llm"]
    first = next(source.records(), None) if source.looks_like_json() else None
    source.skipped.clear()  # the reader reports it again
    for each in FORMATS.values():
        if first is not None and each.matches is not None and each.matches(first):
            return each
    raise ImportRefused(
        source.name,
        "",
        f"does not look like any of {', '.join(READABLE)}; give its format, or check the file",
    )


__all__ = [
    "FORMATS",
    "READABLE",
    "WRITABLE",
    "ExportRefused",
    "Format",
    "ImportRefused",
    "Limits",
    "Output",
    "Source",
    "detected",
    "read_sessions",
    "write_sessions",
]
