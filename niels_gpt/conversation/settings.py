"""The settings of a conversation: one table that drives flags, commands, help and validation.

A setting has one name on the command line, one as a command and one in the store; its parser alone decides
what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from niels_gpt.sampling.settings import (
    MAX_PENALTY,
    check_penalty,
    check_repetition_penalty,
    check_share,
    check_temperature,
)

Value = float | int | str | None

# The store keeps whole numbers in 64 bits.
_SEED_LOWEST, _SEED_HIGHEST = -(2**63), 2**63 - 1
_MOST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table; `parse` raises ValueError for anything that is not `allowed`.

    Without a `command` it is set when the program starts and not in the chat.
    """

    key: str
    flag: str
    command: str = ""
    aliases: tuple[str, ...] = ()
    """Other names of the command."""
    placeholder: str
    meaning: str
    allowed: str
    examples: tuple[str, ...] = ()
    parse: Callable[[str], Value]

    def read(self, text: str) -> Value:
        """Return the value that `text` stands for; ValueError says what is allowed."""
        try:
            return self.parse(text.strip())
        except ValueError:
            raise ValueError(f"{text.strip()!r} is not allowed: {self.allowed}") from None


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not lowest <= value <= highest:
            raise ValueError(text)
        return value

    return parse


def _number(check: Callable[[float], object]) -> Callable[[str], float]:
    """Return a parser of numbers for which `check` raises no ValueError."""

    def parse(text: str) -> float:
        value = float(text)
        check(value)
        return value

    return parse


def _check_min_p(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(value)


def _or_off(parse: Callable[[str], Value], *off: str) -> Callable[[str], Value]:
    return lambda text: None if text.lower() in off else parse(text)


def _switch(text: str) -> bool:
    """Return what on or off, or another pair of such words, stands for; ValueError."""
    values = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def on_off(key: str, meaning: str, *, command: str = "") -> Setting:
    """Return a setting that is on or off, with the flag of its key."""
    return Setting(
        key=key,
        flag=f"--{key.replace('_', '-')}",
        command=command,
        placeholder="on|off",
        meaning=meaning,
        allowed="on or off",
        examples=("on", "off"),
        parse=_switch,
    )


_COUNT_PENALTIES = (
    f"a number from {-MAX_PENALTY:g} to {MAX_PENALTY:g}; 0 or none for no penalty, below 0 favours repeating"
)

SETTINGS: dict[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting(
            key="temperature",
            flag="--temperature",
            command="/temperature",
            aliases=("/temp",),
            placeholder="X",
            meaning="randomness; 0 = always the likeliest token",
            allowed="a number from 0 to 3.4e38, usually up to 2",
            examples=("0", "0.7", "0.9"),
            parse=_number(check_temperature),
        ),
        Setting(
            key="top_k",
            flag="--top-k",
            command="/top_k",
            placeholder="K",
            meaning="choose among the K likeliest tokens",
            allowed="a whole number from 1 up; 0 or none for no limit",
            examples=("none", "1", "50"),
            parse=_or_off(_whole(1, _MOST), "0", "none"),
        ),
        Setting(
            key="top_p",
            flag="--top-p",
            command="/top_p",
            placeholder="P",
            meaning="choose among the likeliest tokens that sum to P",
            allowed="a number above 0 and up to 1; none for no limit",
            examples=("none", "0.9", "0.95"),
            parse=_or_off(_number(partial(check_share, "the share")), "none"),
        ),
        Setting(
            key="repetition_penalty",
            flag="--repetition-penalty",
            command="/repetition_penalty",
            aliases=("/rep_penalty",),
            placeholder="R",
            meaning="above 1 makes repeating a token less likely",
            allowed=f"a number from {1 / MAX_PENALTY:g} to {MAX_PENALTY:g}; 1 or none for no penalty",
            examples=("none", "1.1", "1.3"),
            parse=_or_off(_number(check_repetition_penalty), "none"),
        ),
        Setting(
            key="min_p",
            flag="--min-p",
            command="/min_p",
            placeholder="P",
            meaning="drop tokens less likely than P of the likeliest",
            allowed="a number from 0 to 1; none for no limit",
            examples=("none", "0.05", "0.1"),
            parse=_or_off(_number(_check_min_p), "none"),
        ),
        Setting(
            key="typical_p",
            flag="--typical-p",
            command="/typical_p",
            aliases=("/typical",),
            placeholder="P",
            meaning="keep the least surprising tokens that sum to P",
            allowed="a number above 0 and up to 1; none for no limit",
            examples=("none", "0.2", "0.95"),
            parse=_or_off(_number(partial(check_share, "the share")), "none"),
        ),
        Setting(
            key="frequency_penalty",
            flag="--frequency-penalty",
            command="/frequency_penalty",
            aliases=("/freq_penalty",),
            placeholder="F",
            meaning="above 0 makes a token rarer each time it is used",
            allowed=_COUNT_PENALTIES,
            examples=("none", "0.2", "0.5"),
            parse=_or_off(_number(partial(check_penalty, "the penalty")), "none"),
        ),
        Setting(
            key="presence_penalty",
            flag="--presence-penalty",
            command="/presence_penalty",
            aliases=("/pres_penalty",),
            placeholder="F",
            meaning="above 0 makes a token rarer once it was used",
            allowed=_COUNT_PENALTIES,
            examples=("none", "0.2", "0.5"),
            parse=_or_off(_number(partial(check_penalty, "the penalty")), "none"),
        ),
        Setting(
            key="max_new_tokens",
            flag="--max-new-tokens",
            command="/max_new_tokens",
            aliases=("/max_tokens",),
            placeholder="N",
            meaning="the longest reply, in tokens",
            allowed=f"a whole number from 1 to {_MOST}",
            examples=("64", "256"),
            parse=_whole(1, _MOST),
        ),
        Setting(
            key="seed",
            flag="--seed",
            command="/seed",
            placeholder="S",
            meaning="the seed of the replies' randomness",
            allowed="a 64-bit whole number",
            examples=("42",),
            parse=_whole(_SEED_LOWEST, _SEED_HIGHEST),
        ),
        on_off("keep_stopped", "whether the model sees a reply that was stopped", command="/keep_stopped"),
    )
}


def show(value: Value) -> str:
    """Return a value as a user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of one conversation; the defaults are those of the command line."""

    temperature: float = 0.9
    top_k: int | None = 50
    top_p: float | None = None
    repetition_penalty: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_new_tokens: int = 256
    seed: int = 42
    keep_stopped: bool = True
    stop: tuple[str, ...] = ()
    """Texts that end a reply, on top of those of the template. Set by a request, not by a flag."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number added to its logit). Set by a request, not by a flag."""

    def with_values(self, values: Mapping[str, Value]) -> Settings:
        """Return a copy with the given values, which a Setting has read."""
        return replace(self, **dict(values))

    def stored(self) -> dict[str, Any]:
        """Return what a session keeps as its settings; the seed has a column of its own.

        What only a request can set is left out where it is empty.
        """
        kept: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in {"seed", "stop", "logit_bias"}
        }
        if self.stop:
            kept["stop"] = list(self.stop)
        if self.logit_bias:
            kept["logit_bias"] = [list(pair) for pair in self.logit_bias]
        return kept

    @classmethod
    def from_stored(cls, stored: Mapping[str, object], *, seed: int) -> Settings:
        """Return the settings of a stored session; ValueError for a value that is not allowed.

        Missing ones keep their defaults, and unknown ones stay in the store for a version that knows them.
        """
        values: dict[str, Value] = {"seed": seed}
        for key, value in stored.items():
            if key in SETTINGS:
                values[key] = SETTINGS[key].read("none" if value is None else repr(value))
        stop, bias = stored.get("stop", []), stored.get("logit_bias", [])
        try:
            return replace(
                cls().with_values(values),
                stop=tuple(_text(each) for each in _listed(stop)),
                logit_bias=tuple((int(token_id), float(number)) for token_id, number in _listed(bias)),
            )
        except (TypeError, ValueError):
            raise ValueError(f"stop is {stop!r} and logit_bias {bias!r}: expected lists") from None


def _listed(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value
