"""Read values of a config that somebody else wrote, each with the type that is expected of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from niels_gpt.model.stored import CheckpointError

T = TypeVar("T")
LARGEST_JSON = 64 * 2**20


class _Required:
    """Stands for a value that has no default."""


REQUIRED = _Required()


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; CheckpointError for anything else."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(
                f"{str(path)!r} has {path.stat().st_size} bytes, expected a small JSON file"
            )
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{str(path)!r} holds a JSON {type(value).__name__}, expected an object")
    return value


class ConfigReader:
    """The values of a config; null counts as absent."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        """Take the values; `where` names their file in errors."""
        self.values, self.where = values, where

    def has(self, name: str) -> bool:
        """Return whether the config says something under `name`."""
        return self.values.get(name) is not None

    def whole(self, name: str, default: int | _Required = REQUIRED) -> int:
        """Return a whole number."""
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "a whole number")
        return value

    def number(self, name: str, default: float | _Required = REQUIRED) -> float:
        """Return a finite number."""
        value = self._value(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def flag(self, name: str, default: bool | _Required = REQUIRED) -> bool:  # noqa: FBT001 - a default value
        """Return true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | _Required = REQUIRED) -> str:
        """Return a text."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, empty where there is none."""
        value = self.values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(name, "a list of texts")
        return value

    def wholes(self, name: str) -> list[int]:
        """Return whole numbers: a list of them, or one; empty where there is none."""
        value = self.values.get(name)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in listed):
            raise self.wrong(name, "a whole number or a list of them")
        return listed

    def section(self, name: str) -> ConfigReader:
        """Return the object under `name`, empty where there is none."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return ConfigReader(value or {}, f"{self.where}, {name}")

    def expect(self, name: str, *, only: object) -> None:
        """Raise unless a value is absent or `only`."""
        value = self.values.get(name)
        if value is not None and value != only:
            raise CheckpointError(
                f"{self.where}: {name} is {value!r}, which is not supported; expected {only!r}"
            )

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """Return the error of a value that is not what is expected."""
        if not self.has(name):
            return CheckpointError(f"{self.where} lacks {name!r}, expected {expected}")
        return CheckpointError(f"{self.where}: {name} is {self.values[name]!r}, expected {expected}")

    def _value(self, name: str, default: object) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if isinstance(default, _Required):
            raise CheckpointError(f"{self.where} lacks {name!r}")
        return default
