"""The argument parser of `niels-chat`, its subcommands and `niels-generate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from niels_gpt.cli.exit_codes import USAGE


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and status 2."""

    def __init__(self, *args: Any, commands: Sequence[str] = (), **kwargs: Any) -> None:
        """Make a parser; `commands` are words that must come first, for the error about one that does not."""
        super().__init__(*args, **kwargs)
        self._commands = commands

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
        import difflib  # noqa: PLC0415 - only for an error

        known = [name for action in self._actions for name in action.option_strings]
        near = difflib.get_close_matches(rest[0].partition("=")[0], known, n=1, cutoff=0.7)
        return f"; did you mean {near[0]}?" if near and rest[0].startswith("--") else ""

    def error(self, message: str) -> NoReturn:
        """Print one line instead of the whole usage: the flag at fault is what the user needs to see."""
        self.exit(USAGE, f"{self.prog}: {message} ({self.prog} --help lists every flag)\n")


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
