"""Tokenizer and chat template as a Hugging Face folder holds them.

The Jinja template renders exactly what `text.chat_template` makes of the same messages. What it cannot say:
here a text that spells a control token stays text, while `transformers` reads control tokens out of a
rendered prompt wherever they stand.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers

from niels_gpt.text.bpe import BYTE_OF_LETTER, CONTROL_TOKENS
from niels_gpt.text.chat_template import REPLY_TAG, ROLES
from niels_gpt.text.hf_bpe import HFBPETokenizer
from niels_gpt.text.tokenizer import Tokenizer

_OPEN_REPLY = "loop.last and add_generation_prompt and m['role'] == 'assistant' and m['content'] == ''"
_UNKNOWN = "{{ raise_exception('unknown role ' + m['role'] + '; expected " + ", ".join(ROLES) + "') }}"


def _for_each_turn(turn: str, reply: str) -> str:
    known = "{% if m['role'] not in " + str(list(ROLES)) + " %}" + _UNKNOWN + "{% endif %}"
    body = "{% if not (" + _OPEN_REPLY + ") %}" + turn + "{% endif %}"
    end = "{% if add_generation_prompt %}{{ " + repr(reply) + " }}{% endif %}"
    return "{% for m in messages %}" + known + body + "{% endfor %}" + end


def chat_template(tokenizer: Tokenizer) -> str:
    """Return the Jinja template for the tokenizer's kind."""
    if "asst" in tokenizer.special_token_ids():
        names = {"system": "sys", "user": "usr", "assistant": "asst"}
        tags = {role: CONTROL_TOKENS[name] for role, name in names.items()}
        turn = "{{ " + str(tags) + "[m['role']] + m['content'] + " + repr(CONTROL_TOKENS["eot"]) + " }}"
        return _for_each_turn(turn, CONTROL_TOKENS["asst"])
    guarded = "m['content']"
    for role in ROLES:  # a line that opens like a turn gets a space
        guarded += rf".replace('\n{role}: ', '\n {role}: ')"
    return _for_each_turn("{{ m['role'] + ': ' + " + guarded + r" + '\n' }}", REPLY_TAG)


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """Return tokenizer.json: the stored one, or for bytes a vocabulary of the 256 bytes without merges."""
    if isinstance(tokenizer, HFBPETokenizer):
        return tokenizer.published_json()
    stored = tokenizer.to_json()
    return byte_pieces() if stored is None else stored


def tokenizer_config(tokenizer: Tokenizer, *, T: int) -> dict[str, Any]:
    """Return tokenizer_config.json."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": T,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(tokenizer),
    }
    if "asst" in tokenizer.special_token_ids():
        config |= {"eos_token": CONTROL_TOKENS["eot"], "pad_token": CONTROL_TOKENS["eot"]}
    return config


def byte_pieces() -> str:
    """Return the tokenizer.json of bytes: 256 pieces of one byte each, under their own number, no merges."""
    pipeline = HFTokenizer(models.BPE(vocab=BYTE_OF_LETTER, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.decoder = decoders.ByteLevel()
    return pipeline.to_str()
