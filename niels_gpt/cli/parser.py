"""The argument parser of `niels-chat` and of its subcommands."""

from __future__ import annotations

import argparse
from typing import NoReturn

from niels_gpt.cli.exit_codes import USAGE


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and status 2."""

    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage: the flag at fault is what the user needs to see."""
        self.exit(USAGE, f"{self.prog}: {message} ({self.prog} --help lists every flag)\n")
