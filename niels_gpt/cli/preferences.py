"""Read the preferences besides a conversation's settings: the model, the store, the look of the chat.

Rows of the same kind as in settings.py. They belong to the program and not to a session: nothing of them is
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from niels_gpt.conversation.settings import SETTINGS, Setting, Settings, Value, on_off
from niels_gpt.device import DEVICES
from niels_gpt.kernels import WeightForm

MOST_THREADS = 256


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return parse


def _text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _threads(text: str) -> int | None:
    if text.lower() == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise ValueError(text)
    return int(text)


WEIGHTS_MEANING = (
    "int8, q8, q4: quantise the weights, which makes a model of its own, not with torch "
    "(default: float32, or what the file has)"
)

PREFERENCES: dict[str, Setting] = {
    preference.key: preference
    for preference in (
        Setting(
            key="ckpt",
            flag="--ckpt",
            placeholder="PATH",
            meaning="the checkpoint (default: the one that comes with niels-gpt)",
            allowed="the path of a .pt file",
            parse=_text,
        ),
        Setting(
            key="store",
            flag="--store",
            placeholder="PATH_OR_URL",
            meaning="where sessions are kept (default: your data folder)",
            allowed="a path, or an SQLAlchemy URL",
            parse=_text,
        ),
        Setting(
            key="system",
            flag="--system",
            placeholder="TEXT",
            meaning="the system prompt (default: that of a new session is built in)",
            allowed="any text",
            parse=str,
        ),
        Setting(
            key="device",
            flag="--device",
            placeholder="{" + ",".join(DEVICES) + "}",
            meaning="where the model runs (default: cpu)",
            allowed=f"{', '.join(DEVICES)}; a GPU may have a number, as in cuda:1",
            examples=DEVICES,
            parse=_one_of(DEVICES),
        ),
        Setting(
            key="weights",
            flag="--weights",
            placeholder="{" + ",".join(get_args(WeightForm)) + "}",
            meaning=WEIGHTS_MEANING,
            allowed=", ".join(get_args(WeightForm)),
            examples=get_args(WeightForm),
            parse=_one_of(get_args(WeightForm)),
        ),
        Setting(
            key="threads",
            flag="--threads",
            placeholder="N",
            meaning="how many threads compute; no number changes a reply (default: auto)",
            allowed=f"a whole number from 1 to {MOST_THREADS}, or auto for what was measured as best",
            examples=("auto", "1", "2"),
            parse=_threads,
        ),
        on_off(
            "speculation",
            "draft tokens that a reply may repeat, where faster; changes no reply (default: on)",
        ),
        on_off("markdown", "show Markdown as bold, italic and colour", command="/markdown"),
        on_off("vi", "edit lines with the keys of vi instead of emacs", command="/vi"),
        on_off("quiet", "print only replies and errors"),
    )
}

SWITCHES = ("speculation", "markdown", "vi", "quiet")
"""Those that a flag turns on, and off with --no- before its name."""

CONFIGURABLE: dict[str, Setting] = {**SETTINGS, **PREFERENCES}
"""Everything that a flag, a variable of the environment or the file can say."""

DEFAULTS: dict[str, Value] = {
    **{key: getattr(Settings(), key) for key in SETTINGS},
    "ckpt": None,
    "store": None,
    "system": None,
    "device": "cpu",
    "weights": "float32",
    "threads": None,
    **dict.fromkeys(SWITCHES, False),
    "speculation": True,
}
