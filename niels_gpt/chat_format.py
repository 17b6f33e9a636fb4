"""Import path that users of the original project call; the code is in `niels_gpt.text.transcript`."""

from niels_gpt.text.transcript import (
    extract_assistant_reply,
    format_chat,
)

__all__ = [
    "extract_assistant_reply",
    "format_chat",
]
