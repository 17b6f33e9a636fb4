"""Compare the primer with the program: what no entry names, and what entries name that does not exist.

    python tools/primer_coverage.py

prints both lists, the entries with too few wordings, and the goals, names, cases and places that several
entries share: a wording of two entries is asked of neither. Status 1 if anything is missing or does not
exist. What is compared: commands and keys of the chat, subcommands, flags of the three programs, keys of the
configuration, pages of the documentation, targets of the Makefile.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from generate_primer import read_topics
from primer_wordings import fill, shared_wordings

from niels_gpt import serve_cli
from niels_gpt.chat.commands.registry import COMMANDS, KNOWN_ELSEWHERE, command_named
from niels_gpt.cli.generate import options as generate_options
from niels_gpt.cli.preferences import CONFIGURABLE
from niels_gpt.cli.subcommands import SUBCOMMANDS
from niels_gpt.cli.subcommands.completion import parsers

REPO = Path(__file__).resolve().parents[1]
ENOUGH_WORDINGS = 40
OLD_WORDS = re.compile(r"\b(?:seats?|desks?|spoke|lends?|loans?|obeys?|for ever|crew|slab)\b", re.IGNORECASE)
# Named on purpose: names that mean no command here, and what other programs call theirs.
NO_COMMANDS = frozenset({"/save", "/set", "/foo", "/retri"})
_SOURCES = ("niels_gpt", "sessions", "engine", "verifier", "tools", "bench")
_COMMAND = re.compile(r"(?<![\w/~.<:)-])/[a-z][a-z_]+(?![\w/.-])")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
_VARIABLE = re.compile(r"\bNIELS_[A-Z_]+\b")
_FILE = re.compile(r"\b(?:docs|configs|tools|examples|deploy|bench)/[\w./-]*\w")
_MODULE = re.compile(r"python -m ((?:niels_gpt|sessions|engine|verifier|bench|tools|tests)[\w.]*)")
_SUBCOMMAND = re.compile(r"^niels-chat ([a-z]+)$")
_ROUTE = re.compile(r"\"(/[a-z][\w/]*)")


def required() -> dict[str, list[str]]:
    """Return what some entry must name, by kind."""
    makefile = (REPO / "Makefile").read_text("utf-8")
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    return {
        "command": [*COMMANDS, *(alias for each in COMMANDS.values() for alias in each.aliases)],
        "command of other programs": [*KNOWN_ELSEWHERE],
        "key": list(_keys()),
        "subcommand": [f"niels-chat {name}" for name in SUBCOMMANDS],
        "flag": [flag for flag in _flags() if not (flag.startswith("--no-") and f"--{flag[5:]}" in _flags())],
        "configuration key": [*CONFIGURABLE],
        "page": ["README.md", *(f"docs/{path.name}" for path in sorted((REPO / "docs").glob("*.md")))],
        "make target": [f"make {target}" for target in targets],
    }


@cache
def _flags() -> tuple[str, ...]:
    """Return the long flags of the three programs and of all subcommands."""
    made = [*parsers().values(), generate_options.build_parser(), serve_cli.build_parser()]
    flags = (flag for parser in made for flag in parser._option_string_actions)  # noqa: SLF001 - no other list
    return tuple(dict.fromkeys(flag.replace("_", "-") for flag in flags if flag.startswith("--")))


def _keys() -> Iterator[str]:
    """Return the keys of the table in docs/chat.md."""
    page = (REPO / "docs/chat.md").read_text("utf-8")
    table = page.split("<!-- keys -->")[1].split("<!-- end -->")[0]
    for row in table.strip().splitlines()[2:]:
        for key in row.split("|")[1].split(","):
            yield key.strip().removesuffix(" at the prompt")


def missing(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what no entry about a fact names, in a name, a goal or an answer."""
    lines = (line for entry in entries if entry["kind"] == "fact" for line in _lines(entry, written=False))
    words = " ".join(word.strip(".,;:?!'\"()[]") for line in lines for word in line.lower().split())
    text = f" {words} "
    return {
        kind: left
        for kind, names in required().items()
        if (left := [name for name in names if not _is_named(name, text)])
    }


def _is_named(name: str, text: str) -> bool:
    return any(f" {form} " in text for form in _forms(name))


def _forms(name: str) -> tuple[str, ...]:
    """Return how an entry may write a name: a key of the configuration as its command or flag, too."""
    if name in CONFIGURABLE:
        return name, f"/{name}", f"--{name.replace('_', '-')}"
    return (name.strip("?").lower(),)


def stale(entries: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (id of an entry, name in it) where the name does not exist, or is a word of older versions."""
    known = _everything_written()
    return [
        (entry["id"], name)
        for entry in entries
        if entry["kind"] == "fact"
        for line in _lines(entry, written=False)
        for name in _unknown_names(line, known)
    ] + [
        (exchange["id"], word)
        for entry in entries
        for exchange in [entry, *entry.get("follow_ups", [])]
        for answer in exchange["answers"]
        for word in OLD_WORDS.findall(answer)
    ]


def _lines(entry: Mapping[str, Any], *, written: bool = True) -> Iterator[str]:
    """Yield the texts of an entry, with or without the questions written by hand.

    Those may ask for a flag that somebody guesses.
    """
    for field in ("names", "goals", "cases", "places"):
        yield from entry.get(field, [])
    for pair in entry.get("pairs", []):
        yield from pair
    for exchange in [entry, *entry.get("follow_ups", [])]:
        yield from exchange["answers"]
        if written:
            yield from exchange.get("questions", [])


def _unknown_names(line: str, known: Mapping[str, frozenset[str]]) -> Iterator[str]:
    for pattern, exists in (
        (_COMMAND, lambda name: command_named(name) is not None or name in NO_COMMANDS | known["route"]),
        (_FLAG, lambda name: name.replace("_", "-") in known["flag"]),
        (_VARIABLE, lambda name: _is_variable(name) or name in known["variable"] or name.endswith("_")),
        (_FILE, lambda name: (REPO / name).exists()),
        (_MODULE, _is_module),
        (_SUBCOMMAND, lambda name: name in SUBCOMMANDS),
    ):
        yield from (name for name in pattern.findall(line) if not exists(name))


def _is_variable(name: str) -> bool:
    return name.removeprefix("NIELS_CHAT_").lower() in CONFIGURABLE


def _is_module(name: str) -> bool:
    path = REPO / name.rstrip(".").replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


@cache
def _everything_written() -> dict[str, frozenset[str]]:
    """Return every flag, variable and route in the sources and the documentation."""
    paths = [path for folder in _SOURCES for path in sorted((REPO / folder).rglob("*.py"))]
    pages = [*sorted((REPO / "docs").glob("*.md")), REPO / "README.md", REPO / "Makefile"]
    text = "\n".join(path.read_text("utf-8") for path in [*paths, *pages])
    server = "\n".join(path.read_text("utf-8") for path in sorted((REPO / "niels_gpt/server").rglob("*.py")))
    flags = {flag.replace("_", "-") for flag in _FLAG.findall(text)} | set(_flags())
    return {
        "flag": frozenset(flags),
        "variable": frozenset(_VARIABLE.findall(text)),
        "route": frozenset(_ROUTE.findall(server)),
    }


def main() -> int:
    """Print everything; 1 if something is missing or does not exist, else 0."""
    entries = read_topics()
    left_out, gone = missing(entries), stale(entries)
    for kind, names in left_out.items():
        print(f"no entry names {kind}: {', '.join(names)}")
    for name, word in gone:
        print(f"{name}: {word!r} does not exist, or is an old word")
    for entry in fill(entries):
        if len(entry["questions"]) < ENOUGH_WORDINGS:
            print(f"{entry['id']}: {len(entry['questions'])} wordings, fewer than {ENOUGH_WORDINGS}")
    for ids, texts in shared_wordings(entries).items():
        print(f"shared by {', '.join(ids)}: {'; '.join(texts)}")
    return 1 if left_out or gone else 0


if __name__ == "__main__":
    sys.exit(main())
