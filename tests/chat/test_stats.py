from __future__ import annotations

from dataclasses import replace

from niels_gpt.chat.stats import ChatStats, ReplyCost, stats, status_line
from niels_gpt.conversation.settings import Settings
from niels_gpt.model.config import NO_LIMIT

SPENT = ReplyCost(reply_tokens=11, first_token=0.5, total=1.0)


def test_speed_counts_from_the_first_token_and_needs_two() -> None:
    assert SPENT.tokens_per_second == 20.0
    assert ReplyCost(reply_tokens=1, first_token=0.5, total=1.0).tokens_per_second is None
    assert ReplyCost(reply_tokens=0, first_token=None, total=0.1).tokens_per_second is None


def test_the_line_at_the_bottom_tells_what_is_known_and_fits() -> None:
    settings = Settings(temperature=0.5, top_p=0.9)
    facts = ChatStats(
        session="a", checkpoint="x.pt", settings=settings, context_length=512, used=51, spent=(SPENT, SPENT)
    )
    line = status_line(facts, 80)
    assert line == "a | 20 tok/s | 51/512 tokens | x.pt | temp 0.5, top_p 0.9"
    assert status_line(facts, 20) == "a | 20 tok/s"
    assert status_line(facts, 50) == "a | 20 tok/s | 51/512 tokens | x.pt | temp 0.5"
    assert status_line(replace(facts, session="a long name"), 5) == "a lon"
    waiting = replace(facts, left_out=3, unsaved=True)
    assert status_line(waiting, 53) == "a | NOT STORED YET | 20 tok/s | 51/512 tokens"
    assert " | 3 turns left out | " in status_line(waiting, 80)
    assert status_line(ChatStats(session=None, checkpoint="x.pt"), 80) == "new session | x.pt"


def test_statistics_add_up_the_replies_of_this_program() -> None:
    text = stats(ChatStats(session="a", checkpoint="x.pt", context_length=512, used=51, spent=(SPENT, SPENT)))
    assert "since start 2 replies, 22 tokens" in text
    assert "context     51 of 512 tokens" in text
    assert "last reply  11 tokens in 1.00 s, first after 0.500 s, 20.0 tokens/s" in text


def test_a_model_without_a_window_has_no_end_to_count_towards() -> None:
    facts = ChatStats(session="a", checkpoint="b.pt", context_length=NO_LIMIT, used=51, spent=(SPENT,))
    assert status_line(facts, 80) == "a | 20 tok/s | 51 tokens | b.pt"
    assert "context" not in stats(facts)
