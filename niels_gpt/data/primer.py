"""Read the primer, a file of chat dialogues, and split it by dialogue."""

from __future__ import annotations

from pathlib import Path

from niels_gpt.data.splits import split_unique
from niels_gpt.paths import PRIMER_PATH

DIALOGUE_DELIM = "\n\n<dialogue>\n\n"


def load_primer_text(path: str | Path = PRIMER_PATH) -> str:
    """Return the whole file with plain newlines; bytes that are not UTF-8 become U+FFFD.

    A byte order mark is dropped. Raises OSError if the file cannot be read.
    """
    return Path(path).read_text(encoding="utf-8-sig", errors="replace")


def split_primer_dialogues(
    text: str, *, val_frac: float = 0.1, seed: int, delimiter: str = DIALOGUE_DELIM
) -> tuple[str, str]:
    """Return the training and the held-out dialogues, each side joined by `delimiter`.

    Copies of a dialogue are on the same side, and none is lost. From two dialogues on, val has at least one,
    unless `val_frac` is 0; where all are copies of one, both sides have it. Blank parts are not dialogues.

    Raises:
        ValueError: The fraction is outside [0, 1), or the delimiter is empty.

    """
    if not delimiter:
        raise ValueError("the delimiter is '', expected the text between two dialogues")
    dialogues = [part for part in text.split(delimiter) if part.strip()]
    train, val = split_unique(dialogues, key=str.strip, val_frac=val_frac, seed=seed)
    return delimiter.join(train), delimiter.join(val)
