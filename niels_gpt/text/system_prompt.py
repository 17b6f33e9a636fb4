"""The one place of the default system prompt.

Imports nothing, so that the prompt can be on the screen before anything heavy is loaded.
"""

from __future__ import annotations

DEFAULT_SYSTEM_PROMPT = (
    "you are a tiny chatbot on niels’ website. answer in third person about niels. "
    "do not invent personal facts; if you don’t know, say you don’t know."
)
"""The system prompt that the shipped model was trained with, and that its conversations start from."""
