"""Rewording changes how a question is put, never what it is about."""

from __future__ import annotations

import random
import re
from typing import Any

import primer_combinators as combinators
import pytest

SEEDS = range(5)
COMMAND_HEADS = {"make", "pip", "git"}


def code_of(text: str) -> list[str]:
    """Return a text's commands, flags, paths and names, and the word after the head of a command line.

    A quoted text is a message to the bot and may be reworded like any other, so it is left out.
    """
    words = [word.strip("?!.,;:").lower() for word in re.sub(r'"[^"]*"', "", text).split()]
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if combinators.is_code(word) or before in COMMAND_HEADS
    ]


@pytest.mark.parametrize("rewrite", [combinators.vary, combinators.vary_follow_up, combinators.roughen])
def test_no_rewrite_touches_a_command_or_a_flag(rewrite: Any, exchanges: list[dict[str, Any]]) -> None:
    asked = [question for exchange in exchanges for question in exchange["questions"]]
    # A head that ends its question has no word to protect; what a rewrite appends is not one.
    questions = [q for q in asked if code_of(q) and q.split()[-1].strip("?") not in COMMAND_HEADS][::40]
    reworded = [
        (question, rewrite(question, random.Random(seed))) for question in questions for seed in SEEDS
    ]
    assert len(questions) > 300
    assert [pair for pair in reworded if code_of(pair[0]) != code_of(pair[1])] == []


def test_flags_and_paths_keep_their_case() -> None:
    shouted = [combinators.change_case("what does --top-k do", random.Random(seed)) for seed in range(300)]
    assert any(text.startswith("WHAT") for text in shouted)
    assert all("--top-k" in text for text in shouted)


def test_a_rewrite_that_loses_a_flag_would_be_noticed() -> None:
    assert code_of("what does --top-k do") != code_of("what does top k do")


@pytest.mark.parametrize(
    "word",
    ["/temp", "--top-k", "make", "niels-gpt", "checkpoints/niels-gpt.pt", "<|eot|>", "0.9", "latest.pt?"],
)
def test_words_of_the_program_are_code(word: str) -> None:
    assert combinators.is_code(word)


@pytest.mark.parametrize("word", ["what's", "temperature?", "chat", "please,"])
def test_words_of_a_person_are_not_code(word: str) -> None:
    assert not combinators.is_code(word)


def test_a_contraction_takes_one_of_its_forms() -> None:
    forms = {combinators.contract("what is a token", random.Random(seed)) for seed in range(20)}
    assert forms == {"what's a token", "whats a token"}


def test_a_synonym_stays_in_its_group() -> None:
    forms = {combinators.reword("turn off the cache", random.Random(seed)) for seed in range(20)}
    assert forms == {"switch off the cache", "disable the cache", "deactivate the cache"}


def test_a_text_without_known_words_is_left_alone() -> None:
    assert combinators.reword("bpe?", random.Random(0)) == "bpe?"


def test_a_slip_changes_few_words_by_one_letter_each() -> None:
    text = "where is the checkpoint of my model"
    for seed in range(50):
        slipped = combinators.mistype(text, random.Random(seed)).split()
        changed = [(typed, word) for typed, word in zip(slipped, text.split(), strict=True) if typed != word]
        assert len(changed) <= 3
        assert all(abs(len(typed) - len(word)) <= 1 for typed, word in changed)


def test_short_words_are_never_mistyped() -> None:
    assert {combinators.mistype("who is it", random.Random(seed)) for seed in SEEDS} == {"who is it"}


def test_a_fifth_of_the_questions_has_a_slip() -> None:
    question = "where is the checkpoint"
    typed = [combinators.roughen(question, random.Random(seed)).lower().strip("?") for seed in range(2000)]
    assert 0.15 < sum(text != question for text in typed) / len(typed) < 0.23


def test_only_small_words_are_left_out_and_never_a_negation() -> None:
    text = "how do i not show the prompt of --session trip"
    shortened = [combinators.leave_out(text, random.Random(seed)) for seed in range(50)]
    assert {"how not show prompt --session trip", text} < {*shortened}
    assert all("not show" in each and "--session trip" in each for each in shortened)
    assert combinators.leave_out("the", random.Random(0)) == "the"


def test_apostrophes_are_left_out_of_words_and_kept_in_names() -> None:
    text = combinators.drop_apostrophes("i don't know niels' plans, what's up", random.Random(0))
    assert text == "i dont know niels' plans, whats up"


def test_can_you_tell_me_is_said_only_before_a_question_word() -> None:
    openings = [combinators.add_lead_in("default seed?", random.Random(seed)) for seed in range(200)]
    assert not any("tell me" in opening for opening in openings)


def test_the_end_mark_stays_at_the_end() -> None:
    assert combinators.add_tail("default seed?", random.Random(1)).endswith("?")


def test_the_same_seed_gives_the_same_wording() -> None:
    question = "how do i change the temperature"
    assert combinators.vary(question, random.Random(7)) == combinators.vary(question, random.Random(7))


def test_one_question_becomes_many() -> None:
    rng = random.Random(0)
    assert len({combinators.vary("how do i change the temperature", rng) for _ in range(200)}) > 60
