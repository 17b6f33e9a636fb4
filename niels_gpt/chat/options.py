"""The command line: flags to one frozen value, and the checks that cost nothing.

Flags of settings come from the table in settings.py. Knows no store, no model and no terminal, and
imports nothing heavy: `niels-chat --help` is as quick as Python itself.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from niels_gpt.chat.errors import LoadFailed
from niels_gpt.chat.parser import OneLineParser
from niels_gpt.chat.settings import SETTINGS, Setting, Settings, Value, show
from niels_gpt.chat.subcommands import listing
from niels_gpt.kernels import WeightForm
from niels_gpt.paths import SHIPPED_CHECKPOINT

DEFAULT_CHECKPOINT = SHIPPED_CHECKPOINT
_MOST_THREADS = 256
DEVICES = ("cpu", "auto", "mps", "cuda")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for; `settings` and `system` hold only what was given by a flag."""

    checkpoint: Path = DEFAULT_CHECKPOINT
    checkpoint_given: bool = False
    session: str | None = None
    store: str | None = None
    device: str = "cpu"
    weights: WeightForm = "float32"
    threads: int | None = None
    use_cache: bool = True
    system: str | None = None
    settings: dict[str, Value] = field(default_factory=dict)

    def resume_arguments(self, session: str) -> list[str]:
        """Return the command that goes on with `session`, as a list of words."""
        words = ["niels-chat", "--session", session]
        if self.store is not None:
            words += ["--store", self.store]
        if self.checkpoint_given:
            words += ["--ckpt", str(self.checkpoint)]
        if self.weights != "float32":
            words += ["--weights", self.weights]
        return words


_IN_THE_CHAT = """\
In the chat: /help lists the commands, ctrl-c stops a reply, ctrl-d leaves. Input
that is no terminal is read line by line; the replies alone go to standard output."""


def _reader(setting: Setting) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        try:
            return setting.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _threads(text: str) -> int | None:
    if text.lower() == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_THREADS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: a whole number from 1 to {_MOST_THREADS}, or auto"
        )
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `niels-chat`."""
    parser = OneLineParser(
        prog="niels-chat",
        usage="niels-chat [flags]\n       niels-chat COMMAND ...",
        description="Talk to a checkpoint. Every conversation is kept and can be resumed.",
        epilog=f"{listing()}\n\n{_IN_THE_CHAT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--ckpt",
        metavar="PATH",
        type=Path,
        help="the checkpoint (default: the one that comes with niels-gpt)",
    )
    add("--session", metavar="NAME", help="go on with this session, or begin it (default: a new one)")
    defaults = Settings()
    for setting in SETTINGS.values():
        add(
            setting.flag,
            dest=setting.key,
            metavar=setting.placeholder,
            type=_reader(setting),
            default=argparse.SUPPRESS,
            help=f"{setting.meaning} (default: {show(getattr(defaults, setting.key))}; {setting.allowed})",
        )
    add("--greedy", action="store_true", help="always take the likeliest token: the same as --temperature 0")
    add("--system", metavar="TEXT", help="the system prompt (default: that of a new session is built in)")
    add("--system-file", metavar="PATH", type=Path, help="read the system prompt from a UTF-8 file")
    add("--no-kv-cache", action="store_true", help="recompute the whole context for every token: slower")
    add("--device", choices=DEVICES, default="cpu", help="where the model runs (default: cpu)")
    add(
        "--weights",
        choices=get_args(WeightForm),
        default="float32",
        help="int8: a quarter of the memory and a model of its own, on the CPU (default: float32)",
    )
    add(
        "--threads",
        metavar="N",
        type=_threads,
        help="how many threads compute; no number changes a reply (default: auto, what was measured as best)",
    )
    add("--store", metavar="PATH_OR_URL", help="where sessions are kept (default: your data folder)")
    return parser


def parse_options(argv: Sequence[str]) -> Options:
    """Return the options of a command line.

    Raises SystemExit as argparse does (--help, a wrong flag) and LoadFailed when a file that the
    flags name cannot be read.
    """
    parser = build_parser()
    flags = vars(parser.parse_args(argv))
    if flags["weights"] == "int8" and flags["device"] != "cpu":
        parser.error(
            f"--weights int8 runs on the CPU alone: leave out --device {flags['device']}, or --weights"
        )
    settings = {key: flags[key] for key in SETTINGS if key in flags}
    if flags["greedy"]:
        settings["temperature"] = 0.0
    return Options(
        checkpoint=flags["ckpt"] or DEFAULT_CHECKPOINT,
        checkpoint_given=flags["ckpt"] is not None,
        session=flags["session"],
        store=flags["store"],
        device=flags["device"],
        weights=flags["weights"],
        threads=flags["threads"],
        use_cache=not flags["no_kv_cache"],
        system=_system_prompt(flags["system"], flags["system_file"]),
        settings=settings,
    )


def _system_prompt(text: str | None, path: Path | None) -> str | None:
    if path is None:
        return text
    try:
        # The last newline belongs to the file, not to the prompt.
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LoadFailed(f"cannot read --system-file {str(path)!r}: {reason}") from error


def check_checkpoint(options: Options) -> None:
    """Raise LoadFailed when the checkpoint's file is not there; what is inside is seen while loading."""
    if options.checkpoint.is_file():
        return
    what = "is not a file" if options.checkpoint.exists() else "does not exist"
    advice = (
        "give the path of a .pt file"
        if options.checkpoint_given
        else "train one with `python -m niels_gpt.train --config configs/primer.json` or give --ckpt PATH"
    )
    raise LoadFailed(f"checkpoint {str(options.checkpoint)!r} {what}: {advice}")


def check_session_name(options: Options) -> None:
    """Raise LoadFailed for what is plainly no session name; the store has the last word on it later."""
    name = options.session
    if name is None:
        return
    if not name or name != name.strip() or any(unicodedata.category(each) == "Cc" for each in name):
        raise LoadFailed(
            f"{name!r} cannot be a session name: give visible characters without a blank at either end"
        )
