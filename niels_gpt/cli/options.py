"""Parse the command line of `niels-chat` into `ChatOptions`.

Flags come from the tables in settings.py and preferences.py; what no flag says comes from config.py. Knows
no store, no model and no terminal, and imports nothing heavy: `niels-chat --help` is as quick as Python.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from niels_gpt.cli.config import Found, configured, defaults, nearest
from niels_gpt.cli.parser import OneLineParser, VersionAction
from niels_gpt.cli.personas import Persona, read_persona
from niels_gpt.cli.preferences import CONFIGURABLE, PREFERENCES, SWITCHES
from niels_gpt.cli.subcommands import SUBCOMMANDS, listing
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT, ChatOptions
from niels_gpt.conversation.settings import SETTINGS, Setting, Settings, Value, show
from niels_gpt.kernels import WeightForm
from niels_gpt.paths import user_path
from niels_gpt.program import report
from niels_gpt.text.attachments import attach
from niels_gpt.text.files import NOT_UTF8, read_text, replaced

FROM_INPUT = "-"
"""As a message: read it from standard input, to its end."""


_IN_THE_CHAT = """\
In the chat: /help lists the commands, ctrl-c stops a reply, ctrl-d leaves. Input
that is not a terminal is read line by line; only the replies go to standard output."""


def _reader(setting: Setting) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        try:
            return setting.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _add(group: argparse._ArgumentGroup, row: Setting, meaning: str) -> None:
    if row.key in SWITCHES:
        group.add_argument(
            row.flag,
            dest=row.key,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=meaning,
        )
    else:
        group.add_argument(
            row.flag,
            dest=row.key,
            metavar=row.placeholder,
            type=_reader(row),
            default=argparse.SUPPRESS,
            help=meaning,
        )


def add_configurable(parser: argparse.ArgumentParser) -> None:
    """Add the flag of everything that the environment and the file can say too."""
    initial, group = Settings(), parser.add_argument_group("settings of the conversation")
    for setting in SETTINGS.values():
        value = show(getattr(initial, setting.key))
        _add(group, setting, f"{setting.meaning} (default: {value}; {setting.allowed})")
    group = parser.add_argument_group("model, store and looks")
    for preference in PREFERENCES.values():
        _add(group, preference, preference.meaning)


def found(flags: Mapping[str, Value], environ: Mapping[str, str] = os.environ) -> dict[str, Found]:
    """Return each configurable value and where it came from, first of all `flags`. Raises WrongConfig."""
    rows = {**SETTINGS, **PREFERENCES}
    given = {key: Found(value=value, source=rows[key].flag) for key, value in flags.items() if key in rows}
    return {**defaults(), **configured(environ), **given}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `niels-chat`."""
    parser = OneLineParser(
        prog="niels-chat",
        commands=tuple(SUBCOMMANDS),
        usage="niels-chat [flags] [TEXT ...]\n       niels-chat COMMAND ...",
        description="Talk to a checkpoint. Every conversation is kept and can be resumed.",
        epilog=f"{listing()}\n\n{_IN_THE_CHAT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        nearest=_nearest,
    )
    add = parser.add_argument
    add(
        "words",
        metavar="TEXT",
        nargs="*",
        help="ask this, print the reply and end; without it the chat begins",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--session", metavar="NAME", help="resume this session, or start it (default: a new one)"
    )
    which.add_argument(
        "-c", "--continue", dest="latest", action="store_true", help="resume the session used last"
    )
    which.add_argument("--pick", action="store_true", help="choose a session from a list")
    add(
        "-p",
        "--prompt",
        metavar="TEXT",
        help="the same as TEXT; - reads the message from standard input, which otherwise is attached to it",
    )
    add(
        "-f",
        "--file",
        dest="files",
        metavar="FILE",
        action="append",
        default=[],
        type=Path,
        help="attach a text file to the first message; can be repeated",
    )
    add("--no-session", action="store_true", help="store nothing")
    add("--json", action="store_true", help="print the engine's events, one JSON object a line")
    add("--version", action=VersionAction, nargs=0, help="print the version and exit")
    add_configurable(parser)
    add("--greedy", action="store_true", help="always take the likeliest token; the same as --temperature 0")
    add("--persona", metavar="NAME", help="a system prompt and settings from personas/NAME.toml")
    add("--system-file", metavar="PATH", type=Path, help="read the system prompt from a UTF-8 file")
    add("--no-kv-cache", action="store_true", help="recompute the whole context for every token: slower")
    return parser


def _nearest(flag: str) -> str | None:
    key = nearest(flag.lstrip("-").replace("-", "_"), CONFIGURABLE)
    return None if key is None else CONFIGURABLE[key].flag


def _spelled_out(argv: Sequence[str]) -> Iterator[str]:
    """Yield a command line with the usual forms of its flags: `--temp` and `--top_k` are other spellings."""
    known = {
        f"--{alias[1:].replace('_', '-')}": row.flag for row in CONFIGURABLE.values() for alias in row.aliases
    }
    words = iter(argv)
    for word in words:
        if word == "--":
            yield word
            yield from words
            return
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
            name = known.get(name, name)
        yield f"{name}{equals}{value}"


def parse_options(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> ChatOptions:
    """Return the options of a command line, what it does not say from the environment and the file.

    Raises SystemExit as argparse does (--help, a wrong flag), WrongConfig, and UnreadableTextError for a
    file that the flags name and that cannot be read.
    """
    parser = build_parser()
    flags = vars(parser.parse_args(list(_spelled_out(argv))))
    if flags["no_session"] and (flags["session"] is not None or flags["latest"] or flags["pick"]):
        parser.error("--no-session stores nothing and resumes nothing; leave it out, or the session")
    prompt = flags["prompt"]
    if flags["words"]:
        first, text = flags["words"][0], shlex.quote(" ".join(flags["words"]))
        if prompt is None and first in SUBCOMMANDS:
            parser.error(
                f"put the command first: niels-chat {first} ...; or to ask the model: niels-chat -p {text}"
            )
        # `-p what is rope`, too: only its first word belongs to the flag.
        prompt = " ".join([*([] if prompt is None else [prompt]), *flags["words"]])
    if flags["greedy"]:
        flags["temperature"] = 0.0
    persona = None if flags["persona"] is None else read_persona(flags["persona"], environ)
    if persona is not None:
        flags |= _not_given(persona, flags)
    everything = found(flags, environ)
    values = {key: each.value for key, each in everything.items()}
    if values["weights"] != "float32" and not str(values["device"]).startswith(("cpu", "cuda")):
        parser.error(
            f"--weights {values['weights']} needs the kernels: use --device cpu or cuda instead of "
            f"{values['device']}"
        )
    elsewhere = frozenset(
        key for key, each in everything.items() if key not in flags and each.source != "default"
    )
    checkpoint = _checkpoint(values["ckpt"])
    system = _readable(cast("str | None", values["system"]))
    return ChatOptions(
        checkpoint=checkpoint,
        checkpoint_given=values["ckpt"] is not None,
        session=flags["session"],
        latest=flags["latest"],
        pick=flags["pick"],
        ephemeral=flags["no_session"],
        store=cast("str | None", values["store"]),
        device=str(values["device"]),
        weights=cast("WeightForm", values["weights"]),
        threads=cast("int | None", values["threads"]),
        use_cache=not flags["no_kv_cache"],
        speculation=bool(values["speculation"]),
        system=_system_prompt(system if "system" in flags else None, flags["system_file"]),
        default_system=_default_system(system, checkpoint),
        settings={key: flags[key] for key in SETTINGS if key in flags},
        defaults={key: values[key] for key in SETTINGS if key in elsewhere},
        configured=elsewhere,
        prompt=prompt,
        attached=tuple(attach(user_path(path)) for path in flags["files"]),
        as_events=flags["json"],
        quiet=bool(values["quiet"]),
        markdown=bool(values["markdown"]),
        vi=bool(values["vi"]),
    )


def _not_given(persona: Persona, flags: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a persona sets and no flag says."""
    values = dict(persona.settings)
    if persona.system is not None and flags["system_file"] is None:
        values["system"] = persona.system
    return {key: value for key, value in values.items() if key not in flags}


def _default_system(configured: str | None, checkpoint: Path) -> str | None:
    """Return the system prompt of new sessions; "" for none, None for the shipped model's.

    Models of other projects start without one, so that what their own template says counts.
    """
    from niels_gpt.model.catalogue import is_from_elsewhere  # noqa: PLC0415 - --help needs none of this

    return "" if configured is None and is_from_elsewhere(checkpoint) else configured


def _checkpoint(value: Value) -> Path:
    from niels_gpt.model.catalogue import resolve  # noqa: PLC0415 - --help needs none of this

    return DEFAULT_CHECKPOINT if value is None else resolve(user_path(str(value)))


def _readable(system: str | None) -> str | None:
    """Return a system prompt of a flag, a variable or a file, with bytes that are not UTF-8 replaced."""
    text, changed = replaced(system or "")
    if changed:
        report("niels-chat", NOT_UTF8.format(what="the system prompt"))
    return None if system is None else text


def _system_prompt(text: str | None, path: Path | None) -> str | None:
    if path is None:
        return text
    # The last newline belongs to the file, not to the prompt.
    return read_text(user_path(path), "--system-file").rstrip("\n")
