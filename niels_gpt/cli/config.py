"""Read configured values: a flag wins over an environment variable, over the file, over the default.

The variable is `NIELS_CHAT_TOP_K=40`, the line `top_k = 40` in config.toml of the user's configuration
folder. An error in either names the variable, or the file and the line.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from niels_gpt.cli.preferences import CONFIGURABLE, DEFAULTS
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.settings import Setting, Value
from niels_gpt.text.files import UnreadableTextError, lines_of, read_text

PREFIX = "NIELS_CHAT_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
_FLAGS_ONLY = (
    "greedy",
    "no_kv_cache",
    "system_file",
    "session",
    "continue",
    "pick",
    "prompt",
    "no_session",
    "json",
)
"""Flags that say what one run does; neither a variable nor the file can set them."""

KNOWN_ELSEWHERE: Mapping[str, str] = {
    "model": "ckpt", "m": "ckpt", "checkpoint": "ckpt",
    "num_predict": "max_new_tokens", "n_predict": "max_new_tokens", "max_length": "max_new_tokens",
    "repeat_penalty": "repetition_penalty", "system_prompt": "system", "s": "system",
    "database": "store", "db": "store", "num_thread": "threads", "no_stream": "quiet",
}  # fmt: skip
"""Names that people know from other programs, and what does the same here."""


class WrongConfig(ChatError):  # noqa: N818 - named for what happened, as everywhere in this project
    """A variable or a line of the file that cannot be used; nothing was started."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A value and where it was found: a flag, a variable, `FILE:LINE` or "default"."""

    value: Value
    source: str


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the file is, or would be: `NIELS_CHAT_CONFIG`, or config.toml in the user's folder."""
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE])
    from platformdirs import user_config_path  # noqa: PLC0415 - --help needs none of this

    return user_config_path("niels-gpt", appauthor=False) / "config.toml"


def defaults() -> dict[str, Found]:
    """Return the default of every configurable value."""
    return {key: Found(value=value, source="default") for key, value in DEFAULTS.items()}


def configured(environ: Mapping[str, str] = os.environ) -> dict[str, Found]:
    """Return the values of the environment and of the file; the environment wins. Raises WrongConfig."""
    return {**dict(values_of_file(config_file(environ), CONFIGURABLE)), **dict(_of_environment(environ))}


def _of_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Found]]:
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        key = variable.removeprefix(PREFIX).lower()
        if key not in CONFIGURABLE:
            raise WrongConfig(f"unknown variable {variable}{_advice(key, CONFIGURABLE, upper=True)}")
        yield key, Found(value=_read(key, environ[variable], variable), source=variable)


def values_of_file(path: Path, allowed: Mapping[str, Setting]) -> Iterator[tuple[str, Found]]:
    """Yield the values of a TOML file, none of one that is not there. Raises WrongConfig.

    Args:
        path: The file.
        allowed: What it may set.
    """
    text = _text(path)
    if not text:
        return
    import tomllib  # noqa: PLC0415 - only who has a file needs it

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongConfig(f"{path} is not TOML: {error}") from error
    for key, value in table.items():
        place = f"{path}:{_line_of(key, text)}"
        if key not in allowed:
            raise WrongConfig(f"{place}: unknown key {key!r}{_advice(key, allowed, upper=False)}")
        if isinstance(value, bool):
            word = "on" if value else "off"
        elif isinstance(value, (int, float, str)):
            word = str(value)
        else:
            raise WrongConfig(f"{place}: {key} is a {type(value).__name__}: {allowed[key].allowed}")
        yield key, Found(value=_read(key, word, place), source=place)


def _text(path: Path) -> str:
    try:
        return read_text(path, "the configuration")
    except UnreadableTextError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return ""
        raise WrongConfig(str(error)) from error


def _read(key: str, text: str, place: str) -> Value:
    try:
        return CONFIGURABLE[key].read(text)
    except ValueError as error:
        raise WrongConfig(f"{place}: {key} {error}") from None


def _line_of(key: str, text: str) -> int:
    """Return the number of the line that sets a key; the parser keeps no places."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(lines_of(text), 1) if pattern.match(line)), 1)


def _advice(key: str, allowed: Mapping[str, Setting], *, upper: bool) -> str:
    if key in _FLAGS_ONLY:
        return f"; --{key.replace('_', '-')} can only be a flag"
    near = nearest(key.lower().replace("-", "_"), allowed)
    if near is None:
        return "; `niels-chat config` lists the keys"
    return f" (did you mean {PREFIX + near.upper() if upper else near}?)"


def nearest(key: str, allowed: Mapping[str, Setting]) -> str | None:
    """Return the key that an unknown one most likely means, None for none.

    First another name of it, then a beginning that only one has, then what is known from other programs, then
    a similar spelling.
    """
    names = {key: [key, *(alias[1:] for alias in row.aliases)] for key, row in allowed.items()}
    begun = [each for each, forms in names.items() if any(form.startswith(key) for form in forms)]
    if len(begun) == 1:
        return begun[0]
    known = KNOWN_ELSEWHERE.get(key)
    if known in allowed:
        return known
    near = difflib.get_close_matches(key, [*allowed, *KNOWN_ELSEWHERE], n=1, cutoff=0.7)
    return KNOWN_ELSEWHERE.get(near[0], near[0]) if near else None
