"""The argument parser of `niels-chat`, its subcommands and `niels-generate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from niels_gpt.cli.exit_codes import USAGE
from niels_gpt.program import report


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and status 2."""

    def __init__(
        self,
        *args: Any,
        commands: Sequence[str] = (),
        advice: str = "",
        nearest: Callable[[str], str | None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        """Make a parser.

        Args:
            *args: What every parser takes.
            commands: Words that must come first, for the error about one that does not.
            advice: What to say about words that are too many.
            nearest: Returns the flag that an unknown one most likely means, None for none.
            **kwargs: What every parser takes.
        """
        super().__init__(*args, **kwargs)
        self._commands = commands
        self._too_many = advice
        self._nearest = nearest

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride] - as argparse itself has it
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse all arguments; an unknown one is reported with the nearest flag."""
        flags, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._advice(rest)}")
        return flags

    def _advice(self, rest: Sequence[str]) -> str:
        command = next((word for word in rest if word in self._commands), None)
        if command is not None:
            return f"; put the command first: {self.prog} {command} ..."
        if self._too_many and not any(word.startswith("-") for word in rest):
            return f"; {self._too_many}"
        import difflib  # noqa: PLC0415 - only for an error

        name = rest[0].partition("=")[0]
        known = [each for action in self._actions for each in action.option_strings]
        begun = [each for each in known if each.startswith(name)]
        near = begun if len(begun) == 1 else difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        meant = self._nearest(name) or next(iter(near), None)
        return f"; did you mean {meant}?" if meant and name.startswith("-") else ""

    def error(self, message: str) -> NoReturn:
        """Print one line instead of the whole usage: the flag at fault is what the user needs to see."""
        report(self.prog, f"{message} ({self.prog} --help lists every flag)")
        self.exit(USAGE)


class VersionAction(argparse.Action):
    """`--version`: print the version of niels-gpt and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print the version."""
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - heavy for --help

        try:
            found = version("niels-gpt")
        except PackageNotFoundError:
            found = "(not installed: run from its sources)"
        print(f"{parser.prog} {found}")
        parser.exit()
