"""Write docs/man/*.1, docs/completions/* and the tables of docs/chat.md from the parsers and registries.

    python -m tools.generate_manual

A test holds that they are in the repository as this writes them. Knows roff and Markdown; nothing of what a
command does.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator

from niels_gpt import serve_cli
from niels_gpt.chat.commands.registry import COMMANDS
from niels_gpt.cli.exit_codes import MEANINGS
from niels_gpt.cli.generate import options as generate_options
from niels_gpt.cli.options import build_parser
from niels_gpt.cli.preferences import CONFIGURABLE, DEFAULTS
from niels_gpt.cli.subcommands import SUBCOMMANDS
from niels_gpt.cli.subcommands.completion import PROGRAMS, parsers, script
from niels_gpt.conversation.settings import show
from niels_gpt.paths import REPO_ROOT

MAN = REPO_ROOT / "docs" / "man"
COMPLETIONS = REPO_ROOT / "docs" / "completions"
GUIDE = REPO_ROOT / "docs" / "chat.md"
KEYS = (
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "begin a new line"),
    ("Ctrl-C, Esc", "stop the reply that is being written; what was said is kept"),
    ("Ctrl-C at the prompt", "drop the line"),
    ("Ctrl-D", "leave"),
    ("Ctrl-R", "search what was typed before"),
    ("Right, Ctrl-E", "take the suggestion behind the cursor"),
    ("Tab", "complete a command, a value, the name of a session, a path"),
    ("Ctrl-X Ctrl-E", "edit the message in $VISUAL or $EDITOR (v in the command mode of vi)"),
    ("Ctrl-Z", "suspend the program"),
)


def pages() -> dict[str, str]:
    """Return the text of each page under its file name."""
    made = {
        "niels-chat": _chat_page(),
        "niels-generate": _page(
            generate_options.build_parser(), "answer or continue prompts with a checkpoint"
        ),
        "niels-serve": _page(serve_cli.build_parser(), "serve a checkpoint over HTTP"),
    }
    return {f"{name}.1": "\n".join(lines) + "\n" for name, lines in made.items()}


def _head(program: str, summary: str) -> Iterator[str]:
    yield f'.TH {_text(program.upper())} 1 "" "niels\\-gpt" "User commands"'
    yield from _section("NAME", [f"{_text(program)} \\- {_text(summary)}"])
    yield ".SH SYNOPSIS"
    yield f".B {_text(program)}"
    yield "[flags]"


def _page(parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    """Yield the page of a program that has flags only."""
    yield from _head(parser.prog, summary)
    yield from _section("DESCRIPTION", [_text(parser.description or ""), *_paragraphs(parser.epilog or "")])
    yield ".SH FLAGS"
    yield from _flags(parser)
    yield from _exit_status()


def _exit_status() -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for status, meaning in MEANINGS.items():
        yield from _item(str(status), meaning, "")


def _chat_page() -> Iterator[str]:
    chat = build_parser()
    yield from _head("niels-chat", "talk to a checkpoint; every conversation is kept")
    yield ".br"
    yield ".B niels\\-chat"
    yield ".I COMMAND"
    yield "\\&..."
    yield from _section("DESCRIPTION", [_text(chat.description or ""), *_paragraphs(chat.epilog or "")])
    yield ".SH FLAGS"
    yield from _flags(chat)
    yield ".SH COMMANDS"
    for name, parser in parsers().items():
        if name:
            yield f".SS niels\\-chat {_text(name)}"
            yield _text(f"{SUBCOMMANDS[name].summary[0].upper()}{SUBCOMMANDS[name].summary[1:]}.")
            yield from _flags(parser)
    yield ".SH IN THE CHAT"
    yield "A line that begins with a slash is a command, and a command alone shows its value. Two slashes"
    yield "send a line that begins with one. The words help, quit and exit alone are commands too."
    for command in COMMANDS.values():
        yield from _item(f"{command.name} {command.value}".strip(), command.help, command.allowed)
    yield ".SH KEYS"
    for keys, meaning in KEYS:
        yield from _item(keys, meaning, "")
    yield ".SH CONFIGURATION"
    yield "A flag wins over a variable of the environment, that over config.toml in the user's configuration"
    yield "folder (NIELS_CHAT_CONFIG names another file), that over the default. niels\\-chat config shows"
    yield "each value and where it came from. A session that is resumed keeps its own settings unless a flag"
    yield "says otherwise."
    for key in CONFIGURABLE:
        yield from _item(f"{key}, NIELS_CHAT_{key.upper()}", f"as {CONFIGURABLE[key].flag}", "")
    yield from _item("NO_COLOR", "no colour, bold or dim text", "")
    yield ".SH PERSONAS"
    yield "A file personas/NAME.toml next to config.toml sets system and any setting of a conversation, under"
    yield "the names above; \\-\\-persona NAME and /persona NAME use it."
    yield from _exit_status()


def _section(title: str, paragraphs: Iterable[str]) -> Iterator[str]:
    yield f".SH {title}"
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        yield paragraph


def _paragraphs(epilog: str) -> Iterator[str]:
    """Give the parts of the help's last lines that are prose; the list of commands has a section."""
    for part in epilog.split("\n\n"):
        if not part.startswith("commands"):
            yield _text(" ".join(part.split()))


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list its flags
        if action.help == argparse.SUPPRESS:
            continue
        value = "" if action.nargs == 0 else f" {_placeholder(action)}"
        name = ", ".join(action.option_strings) + value if action.option_strings else value.strip()
        yield from _item(name, _meaning(action), "")


def _meaning(action: argparse.Action) -> str:
    return (action.help or "") % vars(action)


def _placeholder(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


def _item(name: str, meaning: str, allowed: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_text(name)}"
    yield _text(" ".join(meaning.split()) + (f" ({allowed})" if allowed else ""))


def _text(text: str) -> str:
    """Return text that roff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped


def completions() -> dict[str, str]:
    """Return the completion script of each program for each shell, by the name of its file."""
    names = {"bash": "{}.bash", "zsh": "_{}", "fish": "{}.fish"}
    return {
        form.format(program): "\n".join(script(shell, program)) + "\n"
        for shell, form in names.items()
        for program in PROGRAMS
    }


def guide(text: str) -> str:
    """Return the guide with regenerated tables; each is between its marker and the next end marker."""
    tables: dict[str, list[list[str]]] = {
        "keys": [["keys", "what they do"], *([keys, meaning] for keys, meaning in KEYS)],
        "commands": [
            ["command", "what it does", "allowed"],
            *(
                [
                    ", ".join(
                        [f"`{f'{each.name} {each.value}'.strip()}`", *map("`{}`".format, each.aliases)]
                    ),
                    each.help,
                    each.allowed,
                ]
                for each in COMMANDS.values()
            ),
        ],
        "status": [["status", "meaning"], *([str(status), text] for status, text in MEANINGS.items())],
        "configuration": [
            ["key", "variable", "flag", "default", "what it is"],
            *(
                [f"`{key}`", f"`NIELS_CHAT_{key.upper()}`", f"`{row.flag}`", show(DEFAULTS[key]), row.meaning]
                for key, row in CONFIGURABLE.items()
            ),
        ],
    }
    for name, (head, *rows) in tables.items():
        drawn = [head, ["---"] * len(head), *rows]
        lines = "".join("| " + " | ".join(each.replace("|", "\\|") for each in row) + " |\n" for row in drawn)
        marker = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marker.sub(lambda found, lines=lines: found[1] + lines + found[2], text)
    return text


def main() -> None:
    """Write the pages, the completion scripts and the tables."""
    MAN.mkdir(exist_ok=True)
    manual = {MAN / name: text for name, text in pages().items()}
    COMPLETIONS.mkdir(exist_ok=True)
    scripts = {COMPLETIONS / name: text for name, text in completions().items()}
    for path, text in (manual | scripts | {GUIDE: guide(GUIDE.read_text(encoding="utf-8"))}).items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(REPO_ROOT)}")


if __name__ == "__main__":
    main()
