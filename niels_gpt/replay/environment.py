"""The recorded circumstances of a reply, read once into values of known types.

A store holds what the program wrote, and what an imported file claims: anything that is not of the expected
type counts as not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from niels_gpt.conversation.planning import SeedSource, recorded_rule
from sessions import Generation

_SEED_SOURCE = tuple(field.name for field in fields(SeedSource))


@dataclass(frozen=True, kw_only=True)
class RecordedEnvironment:
    """What explains a reply's bits, None where it is not recorded.

    `values` are the recorded scalars by name, for a comparison with those of now.
    """

    weights: str | None
    kernel_version: int | None
    path: str | None
    context_rule: int
    seed_source: SeedSource | None
    values: Mapping[str, object]


def recorded_environment(generation: Generation) -> RecordedEnvironment:
    """Return the environment of a stored generation."""
    stored = generation.environment
    return RecordedEnvironment(
        weights=_text(stored.get("weights")),
        kernel_version=_whole(stored.get("kernel_version")),
        path=_text(stored.get("path")),
        context_rule=recorded_rule(generation),
        seed_source=_seed_source(stored.get("seed_source")),
        values={key: value for key, value in stored.items() if isinstance(value, (str, int, float))},
    )


def _seed_source(stored: object) -> SeedSource | None:
    if not isinstance(stored, Mapping) or set(stored) != set(_SEED_SOURCE):
        return None
    numbers = {name: _whole(stored[name]) for name in _SEED_SOURCE}
    known = {name: number for name, number in numbers.items() if number is not None}
    return SeedSource(**known) if len(known) == len(_SEED_SOURCE) else None


def _whole(value: object) -> int | None:
    """Return a whole number of 64 bits, None for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -(2**63) <= value < 2**63 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
