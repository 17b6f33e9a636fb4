"""The primer: a file of chat dialogues as one text, split by dialogue."""

from __future__ import annotations

from pathlib import Path

from niels_gpt.data.splits import split_items
from niels_gpt.paths import PRIMER_PATH

DIALOGUE_DELIM = "\n\n<dialogue>\n\n"


def load_primer_text(path: str | Path = PRIMER_PATH) -> str:
    """Return the whole file with plain newlines; OSError or ValueError if it is missing or no UTF-8."""
    return Path(path).read_text(encoding="utf-8")


def split_primer_dialogues(
    text: str, *, val_frac: float = 0.1, seed: int, delimiter: str = DIALOGUE_DELIM
) -> tuple[str, str]:
    """Return the dialogues to learn and those held out, each side joined by `delimiter`.

    No dialogue is on both sides, not even as a copy, and none is lost; a blank stretch is no dialogue.
    From two different ones on, val has at least one, unless `val_frac` is 0. Raises ValueError for a
    fraction outside [0, 1) or an empty delimiter.
    """
    if not delimiter:
        raise ValueError("the delimiter is '', expected the text that stands between two dialogues")
    dialogues = [part for part in text.split(delimiter) if part.strip()]
    different = list(dict.fromkeys(part.strip() for part in dialogues))
    _, held_out = split_items(different, val_frac=val_frac, seed=seed)
    out = set(held_out)
    train = [part for part in dialogues if part.strip() not in out]
    val = [part for part in dialogues if part.strip() in out]
    return delimiter.join(train), delimiter.join(val)
