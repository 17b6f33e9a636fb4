"""`niels-serve`, `python -m niels_gpt.serve_cli`: parse the flags and run the server.

Imports nothing heavy before the flags are read.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from niels_gpt.cli.exit_codes import USAGE, run_to_status
from niels_gpt.cli.options import add_configurable, found
from niels_gpt.cli.parser import OneLineParser
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT, ChatOptions, check_checkpoint
from niels_gpt.conversation.settings import SETTINGS
from niels_gpt.kernels import WeightForm
from niels_gpt.paths import user_path
from niels_gpt.server.options import ServeOptions
from niels_gpt.text.files import read_text

_SHORTEST_KEY = 16


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `niels-serve`."""
    initial = ServeOptions()
    parser = OneLineParser(
        prog="niels-serve",
        description="Serve a checkpoint over HTTP: OpenAI's surface, a native one, and a page to chat in.",
        allow_abbrev=False,
    )
    add = parser.add_argument_group("server").add_argument
    add("--host", default=initial.host, help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=initial.port, metavar="N", help="port (default: %(default)s)")
    add(
        "--api-key-file",
        type=Path,
        metavar="PATH",
        help=f"file with the key that clients must show, {_SHORTEST_KEY} characters or more; required unless "
        "only this machine can connect",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which clients reach the server, in addition to localhost and addresses",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose pages may call the server, such as https://chat.example.org",
    )
    for flag, name, meaning in (
        ("--max-batch", "max_batch", "replies generated together"),
        ("--max-queue", "max_queue", "replies that may wait for a place; more are refused with 429"),
        ("--max-requests", "max_requests_per_client", "running requests of one client"),
        ("--max-body-bytes", "max_body_bytes", "size of a request's body"),
    ):
        add(
            flag,
            dest=name,
            type=_positive,
            default=getattr(initial, name),
            metavar="N",
            help=f"{meaning} (default: %(default)s)",
        )
    add(
        "--reply-seconds",
        type=_seconds,
        metavar="S",
        help="the longest time from a request to its reply's end (default: no limit)",
    )
    add(
        "--drain-seconds",
        type=_seconds,
        default=initial.drain_seconds,
        metavar="S",
        help="how long running replies may take after SIGTERM (default: %(default)g)",
    )
    add("--no-kv-cache", action="store_true", help="recompute the whole context for every token: slower")
    add_configurable(parser)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < 1e9:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not allowed: seconds from 0")


def parse_options(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> ServeOptions:
    """Return the options of a command line, what it does not say from the environment and the file.

    Raises SystemExit as argparse does, WrongConfig, and LoadFailed for a key file that cannot be used.
    """
    parser = build_parser()
    flags = vars(parser.parse_args(argv))
    everything = found(flags, environ)
    values = {key: each.value for key, each in everything.items()}
    given = {key for key, each in everything.items() if each.source != "default"}
    if not 0 <= flags["port"] < 2**16:
        parser.error(f"--port {flags['port']} is not allowed: a whole number from 0 to 65535")
    key = None if flags["api_key_file"] is None else _key(flags["api_key_file"])
    if key is None and not _is_loopback(flags["host"]):
        parser.error(f"--host {flags['host']} lets other machines connect: give --api-key-file PATH as well")
    checkpoint = values["ckpt"]
    chat = ChatOptions(
        checkpoint=DEFAULT_CHECKPOINT if checkpoint is None else user_path(str(checkpoint)),
        checkpoint_given=True,
        store=cast("str | None", values["store"]),
        device=str(values["device"]),
        weights=cast("WeightForm", values["weights"]),
        threads=cast("int | None", values["threads"]),
        use_cache=not flags["no_kv_cache"],
        speculation=bool(values["speculation"]),
        system=cast("str | None", values["system"]),
        settings={name: values[name] for name in SETTINGS if name in given},
    )
    return ServeOptions(
        chat=chat,
        host=flags["host"],
        port=flags["port"],
        api_key=key,
        allowed_hosts=tuple(flags["allow_host"]),
        allowed_origins=tuple(flags["allow_origin"]),
        max_batch=flags["max_batch"],
        max_queue=flags["max_queue"],
        max_requests_per_client=flags["max_requests_per_client"],
        max_body_bytes=flags["max_body_bytes"],
        reply_seconds=flags["reply_seconds"],
        drain_seconds=flags["drain_seconds"],
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(path: Path) -> str:
    key = read_text(user_path(path), "--api-key-file").strip()
    if len(key) < _SHORTEST_KEY or any(character.isspace() for character in key):
        raise LoadFailed(
            f"--api-key-file {str(path)!r} must hold one word of at least {_SHORTEST_KEY} characters; "
            "`openssl rand -hex 32` makes one"
        )
    return key


def run_serve_cli(argv: list[str]) -> int:
    """Run the server and return its exit status. `argv` is without the program's name."""

    def work() -> int:
        options = parse_options(argv)
        check_checkpoint(options.chat)
        try:
            from niels_gpt.server.run import serve  # noqa: PLC0415 - heavy: torch and the web framework
        except ModuleNotFoundError as error:
            raise LoadFailed(
                f"niels-serve needs {error.name}, which is not installed: pip install 'niels-gpt[serve]'"
            ) from error
        return serve(options)

    try:
        return run_to_status("niels-serve", work)
    except SystemExit as stop:  # --help, or a wrong flag that argparse has reported
        return stop.code if isinstance(stop.code, int) else USAGE


def main() -> None:
    """Run the server with the arguments of the process and end the process."""
    sys.exit(run_serve_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
