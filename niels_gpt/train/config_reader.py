"""One object of a configuration file, read key by key: a value of another kind is named with its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niels_gpt.train.errors import TrainingError


@dataclass(frozen=True)
class Section:
    """The object, and its place in the file for errors."""

    values: Mapping[str, Any]
    where: str

    def section(self, name: str) -> Section:
        """Return the object under a key, empty where there is none."""
        values = self.values.get(name, {})
        if not isinstance(values, Mapping):
            raise TrainingError(
                f"{self.where}, section {name!r}: expected an object with keys, got {values!r}"
            )
        return Section(values, f"{self.where}, section {name!r}")

    def only(self, *keys: str) -> None:
        """Refuse every other key."""
        only(self.values, keys, where=self.where)

    def get(self, key: str, default: object) -> Any:
        """Return a value as it stands."""
        return self.values.get(key, default)

    def whole(self, key: str, default: int) -> int:
        """Return a whole number of at least 1."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fault(key, value, "a whole number of at least 1")
        return value

    def flag(self, key: str, default: bool) -> bool:  # noqa: FBT001 - the default of a flag is a flag
        """Return true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.fault(key, value, "true or false")
        return value

    def share(self, key: str, default: float) -> float:
        """Return a number in [0, 1)."""
        value = self.get(key, default)
        if not _is_number(value) or not 0 <= value < 1:
            raise self.fault(key, value, "a share in [0, 1)")
        return float(value)

    def weight(self, key: str, default: float) -> float:
        """Return a number in [0, 1]."""
        value = self.get(key, default)
        if not _is_number(value) or not 0 <= value <= 1:
            raise self.fault(key, value, "a weight in [0, 1]")
        return float(value)

    def one_of(self, key: str, default: str, valid: tuple[str, ...]) -> str:
        """Return one of the words."""
        value = self.get(key, default)
        if value not in valid:
            raise self.fault(key, value, f"one of {', '.join(valid)}")
        return value

    def text(self, key: str, default: str) -> str:
        """Return a text."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.fault(key, value, "a text")
        return value

    def words(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Return a list of words."""
        value = self.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.fault(key, value, "a list of names")
        return tuple(value)

    def path(self, key: str, default: Path | None, expected: str) -> Path | None:
        """Return a path, or the default where there is none."""
        value = self.get(key, None)
        if value is None:
            return default
        if not isinstance(value, str) or not value:
            raise self.fault(key, value, expected)
        return Path(value)

    def paths(self, key: str, expected: str) -> tuple[Path, ...]:
        """Return one path or several, at least one."""
        value = self.get(key, None)
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise self.fault(key, value, expected)
        return tuple(map(Path, names))

    def fault(self, key: str, value: object, expected: str) -> TrainingError:
        """Return the error for a value."""
        return TrainingError(f"{self.where}: {key} is {value!r}, expected {expected}")


def only(values: Mapping[str, Any], valid: tuple[str, ...], *, where: str) -> None:
    """Raise TrainingError for keys that are not valid."""
    unknown = [repr(key) for key in values if key not in valid]
    if unknown:
        raise TrainingError(f"{where}: unknown keys {', '.join(unknown)}; valid keys are {', '.join(valid)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
