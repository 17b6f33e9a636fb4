"""What every topic file of the primer promises to the generator and to the held-out evaluation."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

Exchange = dict[str, Any]


def normalised(question: str) -> str:
    """Without case, apostrophes and end marks: what a reader would call the same question."""
    words = re.sub(r"[^\w<>|/+-]+", " ", question.lower().replace("'", "")).split()
    return " ".join(words) or question


def satisfied(must: list[list[str]], answer: str) -> bool:
    return all(any(word.lower() in answer.lower() for word in alternatives) for alternatives in must)


def test_topic_is_named_like_its_file(topic_files: dict[str, dict[str, Any]]) -> None:
    assert {name: content["topic"] for name, content in topic_files.items()} == {
        name: name.removesuffix(".json") for name in topic_files
    }


def test_ids_are_unique(exchanges: list[Exchange]) -> None:
    counts = Counter(exchange["id"] for exchange in exchanges)
    assert [name for name, count in counts.items() if count > 1] == []


def test_follow_up_carries_its_entry_in_its_id(entries: list[Exchange]) -> None:
    strays = [
        follow_up["id"]
        for entry in entries
        for follow_up in entry.get("follow_ups", [])
        if not follow_up["id"].startswith(f"{entry['id']}.")
    ]
    assert strays == []


def test_kinds_are_the_four_known_ones(entries: list[Exchange]) -> None:
    assert {entry["kind"] for entry in entries} <= {"fact", "smalltalk", "unknown", "private"}


def test_every_answer_holds_what_it_must(exchanges: list[Exchange]) -> None:
    broken = [
        (exchange["id"], answer)
        for exchange in exchanges
        for answer in exchange["answers"]
        if not satisfied(exchange["must"], answer)
    ]
    assert broken == []


def test_an_answer_without_its_fact_is_caught() -> None:
    assert not satisfied([["/temp"], ["0.9", "default"]], "type /temp and a number.")


def test_every_exchange_says_what_it_must_hold(exchanges: list[Exchange]) -> None:
    assert [exchange["id"] for exchange in exchanges if not exchange["must"]] == []


def test_unknown_is_declined_and_private_is_kept(entries: list[Exchange]) -> None:
    declines = {"unknown": "don't know", "private": "private"}
    answering = [
        (entry["id"], answer)
        for entry in entries
        if entry["kind"] in declines
        for answer in entry["answers"]
        if declines[entry["kind"]] not in answer.lower()
    ]
    assert answering == []


def test_every_entry_is_asked_in_forty_ways(entries: list[Exchange]) -> None:
    short = {
        entry["id"]: len(set(entry["questions"])) for entry in entries if len(set(entry["questions"])) < 40
    }
    assert short == {}


def test_every_follow_up_is_asked_in_fifteen_ways(entries: list[Exchange]) -> None:
    follow_ups = [follow_up for entry in entries for follow_up in entry.get("follow_ups", [])]
    assert [f["id"] for f in follow_ups if len(set(f["questions"])) < 15] == []


def test_one_or_two_answers_of_a_line_each(exchanges: list[Exchange]) -> None:
    odd = [exchange["id"] for exchange in exchanges if not 1 <= len(exchange["answers"]) <= 2]
    lines = [text for exchange in exchanges for text in exchange["questions"] + exchange["answers"]]
    assert odd == []
    assert [line for line in lines if line != line.strip() or "\n" in line or not line] == []


def test_no_two_entries_share_a_phrasing(entries: list[Exchange]) -> None:
    owners: dict[str, set[str]] = {}
    for entry in entries:
        for question in entry["questions"]:
            owners.setdefault(normalised(question), set()).add(entry["id"])
    assert {question: ids for question, ids in owners.items() if len(ids) > 1} == {}


def test_the_same_question_typed_otherwise_counts_as_shared() -> None:
    assert normalised("What's top-k?") == normalised("whats top-k")


def test_every_statement_about_niels_rests_on_a_public_fact(
    topic_files: dict[str, dict[str, Any]], data_dir: Path
) -> None:
    stated = {fact["id"] for fact in json.loads((data_dir / "public_facts.json").read_text("utf-8"))}
    about = topic_files["about.json"]["entries"]
    assert [
        entry["id"] for entry in about if not entry["facts"] or not stated.issuperset(entry["facts"])
    ] == []


def test_every_public_fact_is_used(topic_files: dict[str, dict[str, Any]], data_dir: Path) -> None:
    stated = {fact["id"] for fact in json.loads((data_dir / "public_facts.json").read_text("utf-8"))}
    assert stated == {fact for entry in topic_files["about.json"]["entries"] for fact in entry["facts"]}
