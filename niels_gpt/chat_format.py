"""Import path that users of the original project call; the code is in `niels_gpt.text.chat_template`."""

from niels_gpt.text.chat_template import (
    extract_assistant_reply,
    format_chat,
)

__all__ = [
    "extract_assistant_reply",
    "format_chat",
]
