"""The options of a chat as one frozen value, and the checks of them that cost nothing.

The command line fills them in (`cli/options.py`); a server or a test can make them too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.settings import Value
from niels_gpt.kernels import WeightForm
from niels_gpt.paths import SHIPPED_CHECKPOINT
from niels_gpt.text.attachments import Attachment

DEFAULT_CHECKPOINT = SHIPPED_CHECKPOINT
MODEL_FILES = ("config.json", "*.gguf", "ckpt.pt", "model_*.pt")
"""What a folder of a model has one of."""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What the user asked for.

    `settings` and `system` hold only what was given by a flag: they change a session that is resumed.
    `defaults` and `default_system` come from the environment and the file and count for new sessions.
    `configured` names what came from there and need not be said again to resume.
    """

    checkpoint: Path = DEFAULT_CHECKPOINT
    checkpoint_given: bool = False
    session: str | None = None
    latest: bool = False
    pick: bool = False
    ephemeral: bool = False
    store: str | None = None
    device: str = "cpu"
    weights: WeightForm = "float32"
    threads: int | None = None
    use_cache: bool = True
    speculation: bool = True
    system: str | None = None
    default_system: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    defaults: Mapping[str, Value] = field(default_factory=dict)
    configured: frozenset[str] = frozenset()
    prompt: str | None = None
    attached: tuple[Attachment, ...] = ()
    as_events: bool = False
    quiet: bool = False
    markdown: bool = False
    vi: bool = False

    def resume_arguments(self, session: str) -> list[str]:
        """Return the command that resumes `session`, as a list of words."""
        from sessions.place import without_password  # noqa: PLC0415 - parsing flags needs no store

        words = ["niels-chat", "--session", session]
        if self.store is not None and "store" not in self.configured:
            words += ["--store", without_password(self.store)]
        if self.checkpoint_given and "ckpt" not in self.configured:
            words += ["--ckpt", str(self.checkpoint)]
        if self.weights != "float32" and "weights" not in self.configured:
            words += ["--weights", self.weights]
        return words


def check_checkpoint(options: ChatOptions) -> None:
    """Raise LoadFailed when there is no checkpoint at the path; its content is checked while loading."""
    folder = options.checkpoint
    if folder.is_file() or any(any(folder.glob(name)) for name in MODEL_FILES):
        return
    path = str(folder)
    if folder.is_dir():
        raise LoadFailed(f"{path!r} is a folder without a model in it (no {', '.join(MODEL_FILES)})")
    if folder.exists():
        raise LoadFailed(f"checkpoint {path!r} is not a file or a folder")
    advice = (
        "give the path of a .pt or .gguf file or of a model folder, or a name (niels-chat models get NAME)"
        if options.checkpoint_given
        else "train one with `make train` or give --ckpt PATH"
    )
    raise LoadFailed(f"checkpoint {path!r} does not exist: {advice}")


def check_session_name(options: ChatOptions) -> None:
    """Raise LoadFailed for what cannot be a session name; the store checks the rest of the rules."""
    name = options.session
    if name is None:
        return
    if not name or name != name.strip() or any(unicodedata.category(each) == "Cc" for each in name):
        raise LoadFailed(
            f"{name!r} cannot be a session name: give visible characters without a blank at either end"
        )
