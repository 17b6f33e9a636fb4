"""Read files of dialogues, and split them into a training and a held-out part.

A file has dialogues separated by `DIALOGUE_DELIM`; each is a sequence of `role: content` lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from niels_gpt.data.primer import DIALOGUE_DELIM
from niels_gpt.data.splits import split_unique
from niels_gpt.text.chat_template import ROLES
from niels_gpt.text.files import UnreadableTextError, read_text
from niels_gpt.train.errors import TrainingError

Dialogue = tuple[dict[str, str], ...]  # {"role", "content"} messages, oldest first


def read_dialogues(paths: Sequence[Path]) -> list[Dialogue]:
    """Return the dialogues of all files in order; TrainingError names the file and the fault."""
    dialogues: list[Dialogue] = []
    for path in paths:
        try:
            text = read_text(path, "the dialogues")
        except UnreadableTextError as error:
            raise TrainingError(
                f"{error}; give the path of a primer file, such as data/primer.txt, in the configuration's "
                "data.dialogues (make train writes those of configs/primer.json)"
            ) from error
        dialogues += parse_dialogues(text, where=str(path))
    return dialogues


def parse_dialogues(text: str, *, where: str) -> list[Dialogue]:
    """Return the dialogues of one text; blank parts between two delimiters are skipped."""
    parts = text.split(DIALOGUE_DELIM)
    dialogues = [
        _parse(part, where=f"{where}, dialogue {number}")
        for number, part in enumerate(parts, start=1)
        if part.strip()
    ]
    if not dialogues:
        raise TrainingError(f"{where} has no dialogue; expected 'role: content' lines")
    return dialogues


def split_dialogues(
    dialogues: Sequence[Dialogue], *, val_frac: float, seed: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Return (train, val), both in the order given; the same arguments give the same split.

    Copies of a dialogue go to the same side, so nothing held out is learned. From two dialogues on, each side
    has at least one unless `val_frac` is 0; where all are copies of one, both sides have it.
    """
    return split_unique(dialogues, key=_identity, val_frac=val_frac, seed=seed)


def _identity(dialogue: Dialogue) -> tuple[tuple[str, str], ...]:
    """Return roles and contents, by which dialogues are compared."""
    return tuple((message["role"], message["content"]) for message in dialogue)


def _parse(part: str, *, where: str) -> Dialogue:
    messages = [_message(line, where=where) for line in part.strip("\n").split("\n")]
    if not any(message["role"] == "assistant" for message in messages):
        raise TrainingError(f"{where} has no assistant line; expected at least one reply to learn")
    return tuple(messages)


def _message(line: str, *, where: str) -> dict[str, str]:
    role, separator, content = line.partition(": ")
    if role not in ROLES or not separator:
        raise TrainingError(
            f"{where} has the line {line[:60]!r}; expected 'role: content' with one of {', '.join(ROLES)}"
        )
    return {"role": role, "content": content}
