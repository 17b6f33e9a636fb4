"""What a prompt is made of where whole turns are not the whole story: joins, cuts, recorded rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from niels_gpt.conversation.context import Exchange, exchanges_of, fit, with_unanswered
from niels_gpt.conversation.errors import MessageTooLong


@dataclass(frozen=True)
class Line:
    role: str
    content: str
    status: str = "complete"


def path(text: str) -> list[Line]:
    """A path in short: "u hi", "a yes", one a line."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    lines = (line.strip().partition(" ") for line in text.strip().splitlines())
    return [Line(roles[role], content) for role, _, content in lines]


class OneIdAWord:
    def __init__(self) -> None:
        self.encoded = 0

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        ids = [len(word) for each in messages for word in [each["role"], *each["content"].split()]]
        self.encoded += len(ids)
        return ids


def test_replies_on_both_sides_of_a_tool_call_are_one_reply() -> None:
    told = path("u what is 2+2?\na Let me look that up.\na It is 4.\nu thanks\na welcome")
    assert exchanges_of(told) == [
        Exchange(user="what is 2+2?", reply="Let me look that up.\n\nIt is 4."),
        Exchange(user="thanks", reply="welcome"),
    ]


def test_an_empty_tool_call_leaves_the_answer_after_it() -> None:
    assert exchanges_of(path("u 2+2?\na \na It is 4.")) == [Exchange(user="2+2?", reply="It is 4.")]


def test_two_questions_in_a_row_are_one_question() -> None:
    assert exchanges_of(path("u one\nu two\na both")) == [Exchange(user="one\n\ntwo", reply="both")]


def test_an_unanswered_message_stands_before_the_next_one() -> None:
    assert with_unanswered(path("u a\na b\nu lost\ns be brief"), "now") == "lost\n\nnow"
    assert with_unanswered(path("u a\na b"), "now") == "now"


def test_under_the_first_rule_records_keep_their_prompts() -> None:
    told = path("u one\nu two\na both\na again\nu lost")
    assert exchanges_of(told, rule=1) == [Exchange(user="two", reply="both")]
    assert with_unanswered(told, "now", rule=1) == "now"


def bytes_fitted(system: str, message: str, T: int = 256) -> tuple[str, int]:
    class Transcript:
        def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
            return list("".join(f"{m['role']}: {m['content']}\n" for m in messages).encode())

    fitted = fit(
        template=Transcript(),
        context_length=T,
        max_new_tokens=256,
        system=system,
        exchanges=[],
        message=message,
    )
    return bytes(fitted.prompt_ids).decode(), fitted.cut_tokens


def test_a_system_prompt_that_leaves_no_room_loses_its_beginning() -> None:
    prompt, cut = bytes_fitted("s" * 200, "m" * 60)
    assert cut == len(f"system: {'s' * 200}\nuser: {'m' * 60}\n") - 192
    assert prompt.endswith(f"s\nuser: {'m' * 60}\n")
    assert len(prompt) == 192  # a quarter of the context is the reply's
    assert bytes_fitted("s" * 20, "m" * 60)[1] == 0


def test_a_message_that_fits_not_even_alone_says_how_many_tokens_fit() -> None:
    with pytest.raises(MessageTooLong, match=r"^too long: 307 tokens; 240 fit \(256 minus 16 kept for the"):
        bytes_fitted("s" * 200, "m" * 300)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 7, 30])
def test_under_the_second_rule_one_more_turn_would_not_fit(turns: int) -> None:
    exchanges = [Exchange(user=f"q{n}", reply="word " * (n % 4)) for n in range(turns)]
    template = OneIdAWord()

    def whole(kept: int) -> list[int]:
        told = [
            {"role": role, "content": text}
            for each in exchanges[turns - kept :]
            for role, text in (("user", each.user), ("assistant", each.reply))
        ]
        return template.prompt_ids([*told, {"role": "user", "content": "now"}])

    fitted = fit(
        template=template,
        context_length=40,
        max_new_tokens=10,
        system=None,
        exchanges=exchanges,
        message="now",
        rule=2,
    )
    kept = turns - fitted.trimmed_turns
    assert list(fitted.prompt_ids) == whole(kept)
    assert len(whole(kept)) <= 30
    assert kept == turns or len(whole(kept + 1)) > 30


def test_the_work_of_a_turn_does_not_grow_with_the_square_of_the_session() -> None:
    def work(turns: int) -> int:
        template = OneIdAWord()
        exchanges = [Exchange(user="a b", reply="c d")] * turns
        fit(
            template=template,
            context_length=10**9,
            max_new_tokens=8,
            system=None,
            exchanges=exchanges,
            message="x",
        )
        return template.encoded

    assert work(800) < 3 * work(400)


def test_a_turn_is_measured_once_however_long_the_session_is() -> None:
    template = OneIdAWord()

    def work(turns: int) -> int:
        before = template.encoded
        fit(
            template=template,
            context_length=512,
            max_new_tokens=8,
            system=None,
            exchanges=[Exchange(user=f"a {n}", reply="c d") for n in range(turns)],
            message="x",
        )
        return template.encoded - before

    assert work(2000) > 2000 * 6
    assert work(2001) < 512 * 2
