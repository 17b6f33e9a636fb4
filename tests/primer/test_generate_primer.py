"""The primer's text: its form, its coverage, and that the stated command makes it again."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generate_primer
import pytest
from generate_primer import DIALOGUE_DELIM, PrimerError

DEFAULT_SYSTEM = (
    "system: you are a tiny chatbot on niels’ website. answer in third person about niels. "
    "do not invent personal facts; if you don’t know, say you don’t know.\n"
)


@pytest.fixture(scope="module")
def primer(entries: list[dict[str, Any]]) -> str:
    return generate_primer.generate(
        generate_primer.make_entries(entries), seed=3, n_per_category=200, shuffle=True
    )


@pytest.fixture(scope="module")
def dialogues(primer: str) -> list[list[tuple[str, str]]]:
    return [list(turns(dialogue)) for dialogue in primer.split(DIALOGUE_DELIM)]


def turns(dialogue: str) -> Iterator[tuple[str, str]]:
    for line in dialogue.splitlines():
        role, _, content = line.partition(": ")
        yield role, content


def digest(text: str) -> str:
    """Short enough to be compared by pytest, which would spend minutes on two unequal primers."""
    return hashlib.sha256(text.encode()).hexdigest()


def stated_command() -> list[str]:
    """The arguments that the generator's docstring gives for `data/primer.txt`."""
    docstring = generate_primer.__doc__ or ""
    line = next(line for line in docstring.splitlines() if "--out data/primer.txt" in line)
    return shlex.split(line)[2:]


def test_the_stated_command_makes_the_primer_of_this_repository(tmp_path: Path, data_dir: Path) -> None:
    out = tmp_path / "primer.txt"
    arguments = [str(out) if argument == "data/primer.txt" else argument for argument in stated_command()]
    assert generate_primer.main(arguments) == 0
    assert digest(out.read_text("utf-8")) == digest((data_dir / "primer.txt").read_text("utf-8"))


def test_no_question_of_the_primer_is_worded_like_a_held_out_one(data_dir: Path) -> None:
    held_out = generate_primer.held_out_wordings()
    lines = (data_dir / "primer.txt").read_text("utf-8").splitlines()
    asked = {generate_primer.wording(line[6:]) for line in lines if line.startswith("user: ")}
    assert len(held_out) > 600
    assert asked & held_out == set()


def test_without_that_rule_some_questions_would_be(primer: str) -> None:
    asked = {generate_primer.wording(line[6:]) for line in primer.splitlines() if line.startswith("user: ")}
    assert asked & generate_primer.held_out_wordings()


def test_the_same_seed_gives_the_same_text(primer: str, entries: list[dict[str, Any]]) -> None:
    again = generate_primer.generate(
        generate_primer.make_entries(entries), seed=3, n_per_category=200, shuffle=True
    )
    assert digest(again) == digest(primer)


def test_another_seed_gives_another_text(primer: str, entries: list[dict[str, Any]]) -> None:
    other = generate_primer.generate(
        generate_primer.make_entries(entries), seed=4, n_per_category=200, shuffle=True
    )
    assert digest(other) != digest(primer)


def test_shuffling_only_changes_the_order(entries: list[dict[str, Any]]) -> None:
    plain, shuffled = (
        generate_primer.generate(
            generate_primer.make_entries(entries), seed=1, n_per_category=20, shuffle=shuffle
        )
        for shuffle in (False, True)
    )
    assert plain != shuffled
    assert sorted(plain.split(DIALOGUE_DELIM)) == sorted(shuffled.split(DIALOGUE_DELIM))


def test_each_category_gets_its_dialogues(topic_files: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    text = generate_primer.generate(
        generate_primer.make_entries(entries), seed=1, n_per_category=7, shuffle=False
    )
    assert len(text.split(DIALOGUE_DELIM)) == 7 * len(topic_files)


def test_a_dialogue_is_one_system_line_at_most_then_questions_and_answers(
    dialogues: list[list[tuple[str, str]]],
) -> None:
    for dialogue in dialogues:
        roles = [role for role, _ in dialogue]
        spoken = roles[1:] if roles[0] == "system" else roles
        assert 2 <= len(spoken) <= 20
        assert spoken == ["user", "assistant"] * (len(spoken) // 2)
        assert all(content for _, content in dialogue)


def test_three_quarters_of_the_dialogues_have_the_exact_default_system_prompt(primer: str) -> None:
    share = primer.count(DEFAULT_SYSTEM) / len(primer.split(DIALOGUE_DELIM))
    assert 0.70 < share < 0.80


def test_a_follow_up_comes_only_behind_its_entry(
    dialogues: list[list[tuple[str, str]]], entries: list[dict[str, Any]]
) -> None:
    families = {answer: entry["id"] for entry in entries for answer in entry["answers"]}
    leaning = {
        answer: entry["id"]
        for entry in entries
        for follow_up in entry.get("follow_ups", [])
        for answer in follow_up["answers"]
        if answer not in families
    }
    answers = [[content for role, content in dialogue if role == "assistant"] for dialogue in dialogues]
    behind = Counter(
        answer in leaning and (families | leaning).get(before)
        for spoken in answers
        for before, answer in zip(["", *spoken], spoken, strict=False)
        if answer in leaning
    )
    assert behind
    assert None not in behind


def test_every_entry_and_every_phrasing_is_used_before_any_comes_again(
    entries: list[dict[str, Any]],
) -> None:
    made = generate_primer.make_entries(entries)
    generate_primer.generate(made, seed=5, n_per_category=400, shuffle=False)
    assert [entry.id for entry in made if entry.questions.dealt == 0] == []


def test_each_way_of_asking_has_its_share(tmp_path: Path) -> None:
    odd = [f"odd {number}" for number in range(60)]
    write_data(tmp_path, facts=[], entry={"form": "command", "names": ["/undo"], "questions": odd})
    (undo,) = generate_primer.load_entries(tmp_path)
    rng = random.Random(0)
    asked = Counter(undo.questions.deal(rng) for _ in range(10 * len(undo.questions)))
    written = sum(asked[question] for question in odd) / asked.total()
    assert written == pytest.approx(generate_primer.WRITTEN_SHARE, abs=0.08)
    assert asked["what does /undo do"] > asked["odd 7"] > asked["what is the purpose of /undo"] > 0


def test_a_deck_deals_everything_before_anything_again() -> None:
    deck, rng = generate_primer.Deck(["a", "b", "c"]), random.Random(0)
    dealt = [deck.deal(rng) for _ in range(9)]
    assert [sorted(dealt[i : i + 3]) for i in (0, 3, 6)] == [["a", "b", "c"]] * 3


def test_a_topic_that_rests_on_an_unstated_fact_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path, facts=["known"], entry={"facts": ["unheard-of"]})
    with pytest.raises(PrimerError, match="unheard-of"):
        generate_primer.load_entries(tmp_path)


def test_an_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    write_data(tmp_path, facts=[], entry={"kind": "gossip"})
    with pytest.raises(PrimerError, match="gossip"):
        generate_primer.load_entries(tmp_path)


def test_an_unknown_form_is_refused_by_name(tmp_path: Path) -> None:
    write_data(tmp_path, facts=[], entry={"form": "poem"})
    with pytest.raises(PrimerError, match="poem"):
        generate_primer.load_entries(tmp_path)


def test_an_entry_without_answers_is_refused_by_name(tmp_path: Path) -> None:
    write_data(tmp_path, facts=[], entry={"id": "mute", "answers": []})
    with pytest.raises(PrimerError, match="mute"):
        generate_primer.load_entries(tmp_path)


def test_entries_that_share_words_often_follow_each_other(tmp_path: Path) -> None:
    def behind(contrast: list[str]) -> float:
        topic = {
            "topic": "one",
            "entries": [
                {
                    "id": name,
                    "kind": "fact",
                    "questions": [f"{name}?"],
                    "answers": [name],
                    "contrast": contrast if name == "e0" else [],
                }
                for name in (f"e{number}" for number in range(30))
            ],
        }
        (tmp_path / "primer").mkdir(exist_ok=True)
        (tmp_path / "public_facts.json").write_text("[]", "utf-8")
        (tmp_path / "primer" / "one.json").write_text(json.dumps(topic), "utf-8")
        entries = generate_primer.load_entries(tmp_path)
        text = generate_primer.generate(entries, seed=0, n_per_category=3000, shuffle=False)
        said = [answer for line in text.splitlines() for answer in line.split("assistant: ")[1:]]
        pairs = list(itertools.pairwise(said))
        return sum(pair == ("e1", "e0") for pair in pairs) / sum(first == "e1" for first, _ in pairs)

    assert behind(["e1"]) > 0.2  # written at e0 alone, and yet both ways
    assert behind([]) < 0.1


def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path) -> None:
    write_data(tmp_path, facts=[], entry={})
    (tmp_path / "primer" / "odd.json").write_text('{"topic": "odd"}', "utf-8")
    with pytest.raises(PrimerError, match=r"odd\.json"):
        generate_primer.load_entries(tmp_path)


def test_no_dialogues_at_all_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_primer.main(["--out", str(tmp_path / "p.txt"), "--n-per-category", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def write_data(folder: Path, *, facts: list[str], entry: dict[str, Any]) -> None:
    """A data folder with one topic of one entry, sound except for what `entry` changes."""
    sound = {"id": "a", "kind": "fact", "questions": ["q"], "answers": ["a"], "must": [["a"]]}
    (folder / "primer").mkdir()
    (folder / "public_facts.json").write_text(json.dumps([{"id": fact} for fact in facts]), "utf-8")
    topic = {"topic": "one", "entries": [sound | entry]}
    (folder / "primer" / "one.json").write_text(json.dumps(topic), "utf-8")
