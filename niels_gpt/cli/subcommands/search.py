"""`niels-chat search TEXT`: find the messages that have all the words, newest first."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.terminal.render import BOLD, DIM
from niels_gpt.terminal.table import local_time, one_line, packed, styled, width_of_output, wrapped

if TYPE_CHECKING:
    from sessions import SearchHit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "words", metavar="TEXT", nargs="+", help="words that a message must have, all of them"
    )
    helpers.add_store(parser)
    helpers.add_json(parser)
    helpers.add_page(parser, "messages", limit=20)


def run(flags: argparse.Namespace) -> int:
    """Print the messages that are found."""
    text = " ".join(flags.words)
    with helpers.opened_store(flags) as store:
        found = store.search(text, limit=flags.limit + 1, offset=flags.offset)
    shown = found[: flags.limit]
    width = width_of_output()
    for each in shown:
        if flags.json:
            helpers.emit_json(each)
        else:
            print("\n".join(_lines(each, text, width)))
    if not found:
        helpers.remark(f"no matches for {text!r}")
    if len(found) > len(shown):
        helpers.remark(f"more results: rerun with --offset {flags.offset + len(shown)}")
    return OK


def _lines(hit: SearchHit, text: str, width: int) -> Iterator[str]:
    place = (one_line(hit.session_name), hit.role, local_time(hit.created))
    yield from (styled(line, DIM) for line in packed(place, width))
    words = re.compile("|".join(re.escape(word) for word in text.split()), re.IGNORECASE)
    for line in wrapped(one_line(hit.snippet), width - 2):
        yield "  " + words.sub(lambda match: styled(match[0], BOLD), line)
