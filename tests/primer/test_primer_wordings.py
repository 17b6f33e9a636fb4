"""An entry's names, goals, cases and places become questions, each of one entry alone."""

from __future__ import annotations

from typing import Any

import pytest
from primer_wordings import (
    COMMON_INTENTS,
    FIRST_WRITTEN,
    FOLLOW_UPS,
    FORMS,
    SAMPLED_WORDINGS,
    fill,
    made_questions,
    wording,
)


def entry(name: str = "undo", **fields: Any) -> dict[str, Any]:
    return {"id": name, "form": "command", "answers": ["/undo goes back."], **fields}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_enough_ways_of_asking(form: str) -> None:
    (filled,) = fill([entry(form=form, names=["/undo"], goals=["take a message back"])])
    assert len(filled["questions"]) >= 40


def test_the_form_chooses_the_words() -> None:
    def asked(form: str) -> str:
        return "\n".join(made_questions(entry(form=form, goals=["stop a reply"])))

    assert "what do i type to stop a reply" in asked("command")
    assert "which key do i press to stop a reply" in asked("key")
    assert "which flag lets me stop a reply" in asked("flag")
    assert "which key" not in asked("command")


def test_cases_and_places_have_their_own_words() -> None:
    questions = set(made_questions(entry(cases=["top-k is 0"], places=["sessions", "the store"])))
    assert {"what happens if top-k is 0", "where are sessions", "where is the store"} <= questions


def test_a_pair_is_asked_in_both_orders() -> None:
    questions = set(made_questions(entry(pairs=[["/undo", "/reset"]])))
    assert {"/undo or /reset", "what is the difference between /reset and /undo"} <= questions
    assert len(questions) >= 40


def test_a_name_in_prose_is_not_typed() -> None:
    questions = set(made_questions(entry(names=["/seed", "the seed"])))
    assert "what happens when i type /seed" in questions
    assert "what happens when i type the seed" not in questions
    assert "what is the seed" in questions


def test_common_wordings_are_kept_and_the_others_sampled() -> None:
    goals = [f"do thing {number}" for number in range(15)]
    questions = list(made_questions(entry(goals=goals)))
    assert len(questions) == COMMON_INTENTS * 15 + SAMPLED_WORDINGS
    assert {f"how do i {goal}" for goal in goals} <= set(questions)


def test_the_common_questions_of_an_entry_are_those_of_its_first_intents() -> None:
    (filled,) = fill([entry(names=["/undo"], questions=["where did my message go"])])
    assert "what does /undo do" in filled["common"]
    assert "where did my message go" not in filled["common"]


def test_without_intents_the_first_written_questions_are_the_common_ones() -> None:
    (filled,) = fill([entry(questions=[f"question {number}" for number in range(50)])])
    assert filled["common"] == [f"question {number}" for number in range(FIRST_WRITTEN)]


def test_the_sample_is_the_same_each_time() -> None:
    goals = [f"do thing {number}" for number in range(15)]
    assert list(made_questions(entry(goals=goals))) == list(made_questions(entry(goals=goals)))


def test_a_wording_of_two_entries_belongs_to_neither() -> None:
    both = [entry("undo", goals=["go back", "take it back"]), entry("goto", goals=["go back", "jump"])]
    undo, goto = ({wording(question) for question in filled["questions"]} for filled in fill(both))
    assert undo & goto == set()
    assert "how do i go back" not in undo | goto
    assert "how do i take it back" in undo


def test_a_question_written_for_one_entry_is_not_made_for_another() -> None:
    both = [entry("undo", goals=["go back"]), entry("goto", questions=["how do i go back"])]
    undo, goto = (filled["questions"] for filled in fill(both))
    assert goto == ["how do i go back"]
    assert "how do i go back" not in undo
    assert "how can i go back" in undo


@pytest.mark.parametrize("suffix", FOLLOW_UPS)
def test_a_follow_up_has_the_questions_of_its_suffix(suffix: str) -> None:
    follow_up = {"id": f"undo.{suffix}", "questions": ["and now"], "answers": ["/undo goes back."]}
    (filled,) = fill([entry(goals=["go back"], follow_ups=[follow_up])])
    questions = filled["follow_ups"][0]["questions"]
    assert questions[0] == "and now"
    assert len(questions) >= 15


def test_words_in_other_scripts_are_told_apart() -> None:
    assert wording("что это") != wording("кто это")
    assert wording("👋") == "👋"
