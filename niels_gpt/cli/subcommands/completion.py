"""`niels-chat completion SHELL`: what bash, zsh or fish needs to complete the command line.

Made from the parsers themselves, so it cannot fall behind them.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.generate import options as generate_options
from niels_gpt.cli.options import build_parser
from niels_gpt.cli.subcommands import SUBCOMMANDS

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("niels-chat", "niels-generate")
_ITSELF = ""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag as a shell completes it: its names, what it means, the values it takes if they are few."""

    names: tuple[str, ...]
    meaning: str
    takes_value: bool
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program as a shell completes it; its own flags are stored under the empty name.

    `summaries` has its subcommands, `with_sessions` names those whose argument is a session.
    """

    name: str
    flags: Mapping[str, Sequence[Flag]]
    summaries: Mapping[str, str]
    with_sessions: Sequence[str]

    @property
    def function(self) -> str:
        """Return the name of the shell function that completes it."""
        return f"_{self.name.replace('-', '_')}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")
    parser.add_argument(
        "--program",
        choices=PROGRAMS,
        default=PROGRAMS[0],
        help="the program to complete (default: niels-chat)",
    )


def run(flags: argparse.Namespace) -> int:
    """Print the script."""
    print("\n".join(script(flags.shell, flags.program)))
    return OK


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command; that of the chat itself is stored under the empty name."""
    made: dict[str, argparse.ArgumentParser] = {_ITSELF: build_parser()}
    for command in SUBCOMMANDS.values():
        made[command.name] = argparse.ArgumentParser(prog=f"niels-chat {command.name}")
        importlib.import_module(command.module).add_arguments(made[command.name])
    return made


def script(shell: str, program: str = "niels-chat") -> Iterator[str]:
    """Yield the lines of the script for a shell."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    chat = program == "niels-chat"
    known = parsers() if chat else {_ITSELF: generate_options.build_parser()}
    return makers[shell](
        Program(
            name=program,
            flags={name: list(_flags(parser)) for name, parser in known.items()},
            summaries={each.name: each.summary for each in SUBCOMMANDS.values()} if chat else {},
            with_sessions=[name for name, parser in known.items() if _takes_sessions(parser)],
        )
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


_BASH_NAMES = """\
_niels_chat_names() {
  local name
  while IFS= read -r name; do
    COMPREPLY+=("$(printf %q "$name")")
  done
}
_niels_chat_sessions() { _niels_chat_names < <(niels-chat sessions --names="$1" 2>/dev/null); }
_niels_chat_personas() { _niels_chat_names < <(niels-chat config --personas 2>/dev/null | grep "^$1"); }"""
_NAMED = {"--session": "sessions --names", "--persona": "config --personas"}
"""Flags whose values are names, and the command that prints them."""


def _named(flag: Flag) -> str | None:
    """Return what the values of a flag are the names of, None where they are none: "sessions", "personas"."""
    found = [name for name in flag.names if name in _NAMED]
    return f"{found[0][2:]}s" if found else None


def _how(program: Program, shell: str) -> str:
    """Return the command that prints the script."""
    return f"niels-chat completion {shell}" + (
        "" if program.name == PROGRAMS[0] else f" --program {program.name}"
    )


def _bash(program: Program) -> Iterator[str]:
    yield f"# {_how(program, 'bash')} >> ~/.bash_completion"
    if program.summaries:
        yield _BASH_NAMES
    yield f"{program.function}() {{"
    yield '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command=""'
    yield "  COMPREPLY=()"
    if program.summaries:
        yield f'  (( COMP_CWORD > 1 )) && case "${{COMP_WORDS[1]}}" in {"|".join(program.summaries)})'
        yield '    command="${COMP_WORDS[1]}" ;;'
        yield "  esac"
    yield '  case "$command $before" in'
    for name, flags in program.flags.items():
        for flag in flags:
            patterns = "|".join(f'"{name} {each}"' for each in flag.names)
            if flag.values:
                yield f"    {patterns})"
                yield f'      COMPREPLY=($(compgen -W "{" ".join(flag.values)}" -- "$word")); return ;;'
            elif (named := _named(flag)) is not None:
                yield f'    {patterns}) _niels_chat_{named} "$word"; return ;;'
            elif flag.takes_value:
                yield f"    {patterns}) return ;;"
    yield "  esac"
    yield '  case "$command" in'
    for name, flags in program.flags.items():
        own = [each for flag in flags for each in flag.names]
        words = " ".join([*own, *([] if name else program.summaries)])
        yield f"    {name or chr(34) * 2})"
        if name in program.with_sessions:
            yield '      [[ "$word" == -* ]] || _niels_chat_sessions "$word"'
        yield f'      COMPREPLY+=($(compgen -W "{words}" -- "$word")) ;;'
    yield "  esac"
    yield "}"
    yield f"complete -o default -F {program.function} {program.name}"


def _zsh(program: Program) -> Iterator[str]:
    yield f"#compdef {program.name}"
    yield f"# {_how(program, 'zsh')} > ~/.zfunc/_{program.name}, with fpath+=~/.zfunc before compinit"
    if program.summaries:
        for flag, command in _NAMED.items():
            yield f"_niels_chat_{flag[2:]}s() {{"
            yield f'  local -a names=("${{(@f)$(niels-chat {command} 2>/dev/null)}}")'
            yield f"  _describe {flag[2:]} names"
            yield "}"
    yield f"{program.function}() {{"
    if program.summaries:
        yield '  if (( CURRENT == 2 )) && [[ "$PREFIX" != -* ]]; then'
        yield "    local -a known=("
        for name, summary in program.summaries.items():
            yield f"      {_quoted(f'{name}:{summary}')}"
        yield "    )"
        yield "    _describe command known"
        yield "    return"
        yield "  fi"
    yield '  case "${words[2]}" in'
    for name in [*program.summaries, _ITSELF]:
        yield f"    {name or '*'}) _arguments -S \\"
        for flag in program.flags[name]:
            for each in flag.names:
                named = _named(flag)
                files = "_files" if named is None else f"_niels_chat_{named}"
                value = f":value:({' '.join(flag.values)})" if flag.values else f":value:{files}"
                meaning = flag.meaning.replace("[", "(").replace("]", ")").replace(":", " ")
                yield f"      {_quoted(f'{each}[{meaning}]' + (value if flag.takes_value else ''))} \\"
        rest = "_niels_chat_sessions" if name in program.with_sessions else "_files"
        yield f"      '*:argument:{rest}' ;;"
    yield "  esac"
    yield "}"
    yield f'{program.function} "$@"'


def _fish(program: Program) -> Iterator[str]:
    start = f"complete -c {program.name} -n"
    sessions = _quoted("(niels-chat sessions --names 2>/dev/null)")
    yield f"# {_how(program, 'fish')} > ~/.config/fish/completions/{program.name}.fish"
    for name, summary in program.summaries.items():
        yield f"{start} __fish_use_subcommand -fa {name} -d {_quoted(summary)}"
    alone = "__fish_use_subcommand" if program.summaries else "true"
    for name, flags in program.flags.items():
        where = _quoted(f"__fish_seen_subcommand_from {name}") if name else alone
        if name in program.with_sessions:
            yield f"{start} {where} -fa {sessions}"
        for flag in flags:
            names = " ".join(
                f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}" for each in flag.names
            )
            named = next((_NAMED[each] for each in flag.names if each in _NAMED), None)
            if named is not None:
                values = f" -xa {_quoted(f'(niels-chat {named} 2>/dev/null)')}"
            elif flag.values:
                values = f" -xa {_quoted(' '.join(flag.values))}"
            else:
                values = " -r" if flag.takes_value else ""
            yield f"{start} {where} {names}{values} -d {_quoted(flag.meaning)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"
