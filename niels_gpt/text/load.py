"""Make the tokenizer of a checkpoint from its stored form."""

from __future__ import annotations

from niels_gpt.text.tokenizer import ByteTokenizer, Tokenizer


def tokenizer_from_json(json_text: str | None) -> Tokenizer:
    """Return the tokenizer of a checkpoint: bytes for None, else the stored BPE.

    Raises:
        TokenizerError: `json_text` is not a stored tokenizer.

    """
    if json_text is None:
        return ByteTokenizer()
    # Byte models should not pay for importing the BPE library.
    from niels_gpt.text.bpe import BPETokenizer  # noqa: PLC0415
    from niels_gpt.text.char_tokenizer import CharTokenizer, is_characters  # noqa: PLC0415
    from niels_gpt.text.hf_bpe import from_stored, is_adopted  # noqa: PLC0415

    if is_characters(json_text):
        return CharTokenizer.from_json(json_text)
    return from_stored(json_text) if is_adopted(json_text) else BPETokenizer.from_json(json_text)
