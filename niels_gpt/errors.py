"""The base classes of the errors that niels_gpt raises on purpose."""

from __future__ import annotations


class ReportedError(Exception):
    """An error whose message is complete and meant for the user: programs print it and nothing else."""

    exit_status: int | None = None
    """The exit status of a program that this error ends; None is that of any other failure."""


class NielsGptError(ReportedError, ValueError):
    """A value given to niels_gpt (a file, a setting, a row of logits) cannot be used."""
