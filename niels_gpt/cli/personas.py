"""Personas: named system prompts with settings, each a file `personas/NAME.toml` next to config.toml.

    system = "You are a patient teacher. Ask a question back."
    temperature = 0.3

What a persona sets becomes part of the session, as its flags and commands would make it, so a replay needs
no persona.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from niels_gpt.cli.config import WrongConfig, config_file, values_of_file
from niels_gpt.cli.preferences import PREFERENCES
from niels_gpt.conversation.settings import SETTINGS, Value

_KEYS = {**SETTINGS, "system": PREFERENCES["system"]}


@dataclass(frozen=True, kw_only=True)
class Persona:
    """A system prompt, None where it sets none, and settings by key."""

    name: str
    system: str | None
    settings: Mapping[str, Value]


def personas_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the personas, which need not exist."""
    return config_file(environ).parent / "personas"


def persona_names(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of all personas, sorted."""
    try:
        return sorted(path.stem for path in personas_folder(environ).glob("*.toml"))
    except OSError:
        return []


def read_persona(name: str, environ: Mapping[str, str] = os.environ) -> Persona:
    """Read a persona.

    Raises:
        WrongConfig: There is none of that name, or its file sets something that cannot be.
    """
    names, folder = persona_names(environ), personas_folder(environ)
    if name not in names:
        known = f"there are {', '.join(names)}" if names else "there are none yet"
        raise WrongConfig(f"unknown persona {name!r}: {known}; a persona is a file in {folder}")
    values = {key: each.value for key, each in values_of_file(folder / f"{name}.toml", _KEYS)}
    system = values.pop("system", None)
    return Persona(name=name, system=None if system is None else str(system), settings=values)
