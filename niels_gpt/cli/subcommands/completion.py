"""`niels-chat completion SHELL`: what bash, zsh or fish needs to complete the command line.

Made from the parsers themselves, so it cannot fall behind them.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.options import build_parser
from niels_gpt.cli.subcommands import SUBCOMMANDS

SHELLS = ("bash", "zsh", "fish")
_CHAT = ""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag as a shell completes it: its names, what it means, the values it takes if they are few."""

    names: tuple[str, ...]
    meaning: str
    takes_value: bool
    values: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")


def run(flags: argparse.Namespace) -> int:
    """Print the script."""
    print("\n".join(script(flags.shell)))
    return OK


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command; that of the chat itself stands under the empty name."""
    made: dict[str, argparse.ArgumentParser] = {_CHAT: build_parser()}
    for command in SUBCOMMANDS.values():
        made[command.name] = argparse.ArgumentParser(prog=f"niels-chat {command.name}")
        importlib.import_module(command.module).add_arguments(made[command.name])
    return made


def script(shell: str) -> Iterator[str]:
    """Yield the lines of the script for a shell."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    known = parsers()
    return makers[shell](
        {name: list(_flags(parser)) for name, parser in known.items()},
        [name for name, parser in known.items() if _takes_sessions(parser)],
    )


def _takes_sessions(parser: argparse.ArgumentParser) -> bool:
    # NAME is what every command calls a session.
    return any(not action.option_strings and action.metavar == "NAME" for action in parser._actions)  # noqa: SLF001


def _flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list its flags
        if action.option_strings:
            placeholder = action.metavar if isinstance(action.metavar, str) else ""
            listed = placeholder.strip("{}").replace("|", ",").split(",") if placeholder else []
            choices = tuple(str(each) for each in action.choices or (listed if len(listed) > 1 else ()))
            yield Flag(
                names=tuple(action.option_strings),
                meaning=" ".join((action.help or "").split()).partition(" (")[0],
                takes_value=action.nargs != 0,
                values=choices,
            )


_BASH_BEGIN = """\
# niels-chat completion bash >> ~/.bash_completion
_niels_chat_sessions() {
  local name
  while IFS= read -r name; do
    COMPREPLY+=("$(printf %q "$name")")
  done < <(niels-chat sessions --names="$1" 2>/dev/null)
}
_niels_chat() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command=""
  COMPREPLY=()"""


def _bash(commands: Mapping[str, list[Flag]], with_sessions: Sequence[str]) -> Iterator[str]:
    yield _BASH_BEGIN
    yield f'  (( COMP_CWORD > 1 )) && case "${{COMP_WORDS[1]}}" in {"|".join(SUBCOMMANDS)})'
    yield '    command="${COMP_WORDS[1]}" ;;'
    yield "  esac"
    yield '  case "$command $before" in'
    for name, flags in commands.items():
        for flag in flags:
            patterns = "|".join(f'"{name} {each}"' for each in flag.names)
            if flag.values:
                yield f"    {patterns})"
                yield f'      COMPREPLY=($(compgen -W "{" ".join(flag.values)}" -- "$word")); return ;;'
            elif "--session" in flag.names:
                yield f'    {patterns}) _niels_chat_sessions "$word"; return ;;'
            elif flag.takes_value:
                yield f"    {patterns}) return ;;"
    yield "  esac"
    yield '  case "$command" in'
    for name, flags in commands.items():
        words = " ".join([*(each for flag in flags for each in flag.names), *([] if name else SUBCOMMANDS)])
        yield f"    {name or chr(34) * 2})"
        if name in with_sessions:
            yield '      [[ "$word" == -* ]] || _niels_chat_sessions "$word"'
        yield f'      COMPREPLY+=($(compgen -W "{words}" -- "$word")) ;;'
    yield "  esac"
    yield "}"
    yield "complete -o default -F _niels_chat niels-chat"


def _zsh(commands: Mapping[str, list[Flag]], with_sessions: Sequence[str]) -> Iterator[str]:
    yield "#compdef niels-chat"
    yield "# niels-chat completion zsh > ~/.zfunc/_niels-chat, with fpath+=~/.zfunc before compinit"
    yield "_niels_chat_sessions() {"
    yield '  local -a names=("${(@f)$(niels-chat sessions --names 2>/dev/null)}")'
    yield "  _describe session names"
    yield "}"
    yield "_niels_chat() {"
    yield '  local name="${words[2]}"'
    yield '  if (( CURRENT == 2 )) && [[ "$PREFIX" != -* ]]; then'
    yield "    local -a known=("
    for command in SUBCOMMANDS.values():
        yield f"      {_quoted(f'{command.name}:{command.summary}')}"
    yield "    )"
    yield "    _describe command known"
    yield "    return"
    yield "  fi"
    yield '  case "$name" in'
    for name, flags in [*((n, f) for n, f in commands.items() if n), (_CHAT, commands[_CHAT])]:
        yield f"    {name or '*'}) _arguments -S \\"
        for flag in flags:
            for each in flag.names:
                files = "_niels_chat_sessions" if each == "--session" else "_files"
                value = f":value:({' '.join(flag.values)})" if flag.values else f":value:{files}"
                meaning = flag.meaning.replace("[", "(").replace("]", ")").replace(":", " ")
                yield f"      {_quoted(f'{each}[{meaning}]' + (value if flag.takes_value else ''))} \\"
        rest = "_niels_chat_sessions" if name in with_sessions else "_files"
        yield f"      '*:argument:{rest}' ;;"
    yield "  esac"
    yield "}"
    yield '_niels_chat "$@"'


def _fish(commands: Mapping[str, list[Flag]], with_sessions: Sequence[str]) -> Iterator[str]:
    start = "complete -c niels-chat -n"
    sessions = _quoted("(niels-chat sessions --names 2>/dev/null)")
    yield "# niels-chat completion fish > ~/.config/fish/completions/niels-chat.fish"
    for command in SUBCOMMANDS.values():
        yield f"{start} __fish_use_subcommand -fa {command.name} -d {_quoted(command.summary)}"
    for name, flags in commands.items():
        where = _quoted(f"__fish_seen_subcommand_from {name}") if name else "__fish_use_subcommand"
        if name in with_sessions:
            yield f"{start} {where} -fa {sessions}"
        for flag in flags:
            names = " ".join(
                f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}" for each in flag.names
            )
            if "--session" in flag.names:
                values = f" -xa {sessions}"
            elif flag.values:
                values = f" -xa {_quoted(' '.join(flag.values))}"
            else:
                values = " -r" if flag.takes_value else ""
            yield f"{start} {where} {names}{values} -d {_quoted(flag.meaning)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"
