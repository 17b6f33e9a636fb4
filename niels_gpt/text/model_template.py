"""The chat templates of other projects' models: a Jinja template, or none at all.

A message is text and nothing else: whatever in it spells a control token is kept from being one before the
template sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from niels_gpt.text.chat_template import ChatTemplateError, Message, checked, without_open_reply
from niels_gpt.text.hf_bpe import HFBPETokenizer
from niels_gpt.text.jinja_sandbox import ChatTemplate
from niels_gpt.text.tokenizer import Tokenizer

SYSTEM_PROBE, USER_PROBE, REPLY_PROBE = "Say yes.", "Is it so?", "It is."


class JinjaTemplate:
    """A model's own chat template."""

    name = "jinja"
    version = 1
    stop_sequences: tuple[bytes, ...] = ()

    def __init__(
        self, tokenizer: HFBPETokenizer, source: str, *, tokens: Mapping[str, str], end_ids: Iterable[int]
    ) -> None:
        """Compile the template and learn from it what it does with a system prompt and after a reply.

        Args:
            tokenizer: the model's.
            source: the Jinja template.
            tokens: texts of special tokens by name, as `bos_token`.
            end_ids: ids that end a reply, besides the one that the template puts behind each.

        Raises:
            ChatTemplateError: the template cannot be used.

        """
        self.source, self._tokenizer = source, tokenizer
        self._template = ChatTemplate(source, tokens=tokens)
        self._takes_system = self._has_system()
        special = frozenset(tokenizer.spec.special)
        self.stop_ids = frozenset((*end_ids, *self._end_of_reply()))
        self.banned_ids = (special | tokenizer.unused_ids) - self.stop_ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to the place where the reply begins. Unknown role: `ValueError`."""
        return self._ids(without_open_reply(checked(messages)), open_reply=True)

    def training_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a whole dialogue and, for each, whether it is learned: replies and what ends them."""
        turns = checked(messages)
        ids = self._ids(turns, open_reply=False)
        learned = [False] * len(ids)
        for n, (role, _) in enumerate(turns):
            if role == "assistant":
                first = len(self._ids(turns[:n], open_reply=True))
                last = len(self._ids(turns[: n + 1], open_reply=False))
                learned[first:last] = [True] * (min(last, len(ids)) - first)
        return ids, learned

    def _ids(self, turns: Sequence[tuple[str, str]], *, open_reply: bool) -> list[int]:
        tokenizer = self._tokenizer
        guard = tokenizer.guard_for(content for _, content in turns)
        guarded = [
            (role, tokenizer.guarded(content, guard, visible=role != "assistant")) for role, content in turns
        ]
        return tokenizer.rendered_ids(self._render(guarded, open_reply=open_reply), guard)

    def _render(self, turns: Sequence[tuple[str, str]], *, open_reply: bool) -> str:
        if not self._takes_system:
            turns = _merged(turns)
        return self._template.render(
            [{"role": role, "content": content} for role, content in turns], open_reply=open_reply
        )

    def _has_system(self) -> bool:
        """Whether the template shows a system prompt; many refuse one, some leave it out."""
        self._takes_system = True
        try:
            shown = self._render([("system", SYSTEM_PROBE), ("user", USER_PROBE)], open_reply=True)
        except ChatTemplateError:
            shown = ""
        if SYSTEM_PROBE not in shown:
            self._takes_system = False
            # A template that cannot do this either cannot be talked to.
            self._render([("user", USER_PROBE)], open_reply=True)
        return SYSTEM_PROBE in shown

    def _end_of_reply(self) -> list[int]:
        """Return the control token that the template puts behind a reply, if there is one."""
        try:
            shown = self._render([("user", USER_PROBE), ("assistant", REPLY_PROBE)], open_reply=False)
        except ChatTemplateError:
            return []
        behind = shown.rpartition(REPLY_PROBE)[2].lstrip()
        spec = self._tokenizer.spec
        found = [n for n in spec.special if spec.pieces[n] and behind.startswith(spec.pieces[n])]
        return [max(found, key=lambda n: len(spec.pieces[n]))] if found else []


class RawTemplate:
    """No template: the model continues the text so far. A reply directly follows its message."""

    name = "raw"
    version = 1
    stop_sequences: tuple[bytes, ...] = ()

    def __init__(
        self, tokenizer: Tokenizer, *, begin_ids: Sequence[int] = (), end_ids: Iterable[int] = ()
    ) -> None:
        """Take the tokenizer, ids that precede every text and ids that end one."""
        self._tokenizer, self._begin = tokenizer, list(begin_ids)
        self.stop_ids = frozenset(end_ids)
        special = frozenset(tokenizer.special_token_ids().values())
        unused = getattr(tokenizer, "unused_ids", frozenset())
        self.banned_ids = (special | unused) - self.stop_ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the text so far. Unknown role: `ValueError`."""
        return self._begin + self._tokenizer.encode_ids(_text(without_open_reply(checked(messages))))

    def training_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a whole text, all of them learned."""
        ids = self.prompt_ids(messages)
        return ids, [True] * len(ids)


def _text(turns: Sequence[tuple[str, str]]) -> str:
    """Return the contents one after the other; a reply belongs to the line of its message."""
    text = ""
    for role, content in turns:
        text += content if role == "assistant" or not text else f"\n{content}"
    return text


def _merged(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Put system prompts in front of the user message that follows them."""
    found: list[tuple[str, str]] = []
    waiting: list[str] = []
    for role, content in turns:
        if role == "system":
            waiting.append(content)
        elif role == "user" and waiting:
            found.append((role, "\n\n".join([*waiting, content])))
            waiting = []
        else:
            found.append((role, content))
    return found
