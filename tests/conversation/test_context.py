from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest

from niels_gpt.conversation.context import CONTEXT_RULE, Exchange, Fitted, exchanges_of, fit, prompt_hash
from niels_gpt.conversation.errors import MessageTooLong


class OneIdAWord:
    """A role and each word are one id."""

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return [len(word) for message in messages for word in [message["role"], *message["content"].split()]]


def fitted(message: str, *turns: tuple[str, str], T: int = 40, max_new_tokens: int = 100) -> Fitted:
    return fit(
        template=OneIdAWord(),
        context_length=T,
        max_new_tokens=max_new_tokens,
        system="be brief",  # 3 ids
        exchanges=[Exchange(user=user, reply=reply) for user, reply in turns],
        message=message,
    )


def test_everything_stays_while_it_fits() -> None:
    prompt = fitted("how are you", ("hi", "hello there"))
    assert prompt.trimmed_turns == 0
    assert len(prompt.prompt_ids) == 3 + 2 + 3 + 4


def test_the_oldest_whole_turns_go_first_and_the_system_prompt_never() -> None:
    turns = [(f"q{n} " * 4, f"a{n} " * 4) for n in range(5)]  # 10 ids each
    prompt = fitted("now", *turns)  # 55 ids, 30 of 40 may be used: 25 too many, 36 in whole steps of 12
    assert prompt.trimmed_turns == 4
    kept = [{"role": "system", "content": "be brief"}]
    for user, reply in turns[4:]:
        kept += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    assert list(prompt.prompt_ids) == OneIdAWord().prompt_ids([*kept, {"role": "user", "content": "now"}])


def test_a_short_reply_leaves_room_for_more_turns() -> None:
    turns = [("q " * 4, "a " * 4)] * 5
    assert fitted("now", *turns, max_new_tokens=5).trimmed_turns == 3  # 20 too many, 30 in whole steps of 15


def test_a_long_message_may_use_the_room_of_the_reply_but_not_all_of_it() -> None:
    # 3 for the system prompt, 1 for the role; 40 // 16 ids stay free.
    assert len(fitted("w " * 34).prompt_ids) == 38
    with pytest.raises(MessageTooLong, match=r"^too long: 39 tokens; 38 fit \(40 minus 2 kept for the reply"):
        fitted("w " * 38)


def test_a_prompt_hash_depends_on_every_id_and_on_their_borders() -> None:
    prompts = [(), (1,), (1, 2), (2, 1), (12,), (258,), (2, 1, 0)]
    assert len({prompt_hash(prompt) for prompt in prompts}) == len(prompts)
    assert prompt_hash([1, 2]) == prompt_hash((1, 2))


@dataclass(frozen=True)
class Line:
    role: str
    content: str
    status: str = "complete"


def test_a_stopped_reply_is_part_of_the_context_unless_the_user_says_otherwise() -> None:
    path = [Line("user", "a"), Line("assistant", "b", "cancelled"), Line("user", "c"), Line("assistant", "d")]
    assert [each.user for each in exchanges_of(path)] == ["a", "c"]
    assert [each.user for each in exchanges_of(path, keep_stopped=False)] == ["c"]


def prompts(turns: int, rule: int = CONTEXT_RULE, T: int = 400) -> list[tuple[int, ...]]:
    """The prompts of a growing conversation."""
    exchanges: list[Exchange] = []
    found = []
    for turn in range(turns):
        message = f"q{turn} " * (3 + turn % 5)
        prompt = fit(
            template=OneIdAWord(),
            context_length=T,
            max_new_tokens=100,
            system="be brief",
            exchanges=exchanges,
            message=message,
            rule=rule,
        )
        found.append(prompt.prompt_ids)
        exchanges.append(Exchange(user=message, reply=f"a{turn} " * (5 + turn % 7)))
    return found


def reused(found: Sequence[tuple[int, ...]]) -> int:
    """How many prompts begin with the whole of the one before."""
    return sum(after[: len(before)] == before for before, after in pairwise(found))


def test_past_its_window_a_conversation_keeps_its_beginning_for_many_turns() -> None:
    found = prompts(200)
    late = found[50:]
    assert max(map(len, late)) <= 300
    assert reused(late) >= 0.8 * len(late)
    shortened = [(before, after) for before, after in pairwise(late) if after[: len(before)] != before]
    assert all(len(after) <= 300 - 100 for _, after in shortened)  # a quarter of the window is free again
    assert reused(prompts(200, rule=2)[50:]) == 0  # the control: the rule before


def test_a_long_system_prompt_leaves_smaller_steps() -> None:
    turns = [(f"q{n} " * 2, f"a{n} " * 2) for n in range(20)]  # 6 ids each
    exchanges = [Exchange(user=user, reply=reply) for user, reply in turns]
    found = fit(
        template=OneIdAWord(),
        context_length=100,
        max_new_tokens=25,
        system="s " * 50,
        exchanges=exchanges,
        message="now",
    )
    assert 1 <= 20 - found.trimmed_turns <= 3


@pytest.mark.parametrize("turns", [7, 8, 60])
def test_a_template_that_adds_more_than_its_parts_still_fits(turns: int) -> None:
    class Growing(OneIdAWord):
        def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
            return super().prompt_ids(messages) + [0] * len(messages) ** 2

    found = fit(
        template=Growing(),
        context_length=100,
        max_new_tokens=25,
        system=None,
        exchanges=[Exchange(user="a", reply="b")] * turns,
        message="now",
    )
    assert len(found.prompt_ids) <= 75
