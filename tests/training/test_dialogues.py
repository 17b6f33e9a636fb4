from __future__ import annotations

from pathlib import Path

import pytest

from niels_gpt.data import DIALOGUE_DELIM
from niels_gpt.train.dialogues import (
    Dialogue,
    parse_dialogues,
    read_dialogues,
    split_dialogues,
)
from niels_gpt.train.errors import TrainingError


def numbered(count: int) -> list[Dialogue]:
    text = DIALOGUE_DELIM.join(f"user: question {n}\nassistant: answer {n}\n" for n in range(count))
    return parse_dialogues(text, where="test")


def test_a_file_of_dialogues_becomes_messages_in_order(dialogues: list[Dialogue]) -> None:
    assert [message["role"] for message in dialogues[1]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert dialogues[1][2]["content"] == "it turns pairs."


def test_a_content_may_hold_a_colon() -> None:
    (dialogue,) = parse_dialogues("user: what is user: for?\nassistant: a tag: yes\n", where="test")
    assert [message["content"] for message in dialogue] == ["what is user: for?", "a tag: yes"]


def test_a_line_without_a_role_is_named_with_its_dialogue() -> None:
    with pytest.raises(TrainingError, match=r"primer, dialogue 2 has the line 'bot: no'"):
        parse_dialogues(f"user: a\nassistant: b\n{DIALOGUE_DELIM}user: a\nbot: no\n", where="primer")


def test_a_dialogue_without_a_reply_is_refused() -> None:
    with pytest.raises(TrainingError, match="no assistant line"):
        parse_dialogues("user: a\n", where="primer")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.txt"):
        read_dialogues([tmp_path / "nowhere.txt"])


def test_the_split_is_the_same_every_time() -> None:
    items = numbered(50)
    assert split_dialogues(items, val_frac=0.2, seed=3) == split_dialogues(items, val_frac=0.2, seed=3)


def test_another_seed_splits_otherwise() -> None:
    items = numbered(50)
    assert split_dialogues(items, val_frac=0.2, seed=3) != split_dialogues(items, val_frac=0.2, seed=4)


def test_the_split_loses_nothing_and_overlaps_nowhere() -> None:
    items = numbered(50)
    train, val = split_dialogues(items, val_frac=0.2, seed=3)
    assert len(val) == 10
    assert sorted(map(str, train + val)) == sorted(map(str, items))


def test_copies_of_a_dialogue_stay_on_one_side() -> None:
    train, val = split_dialogues(numbered(20) * 3, val_frac=0.3, seed=3)
    assert not {str(dialogue) for dialogue in train} & {str(dialogue) for dialogue in val}
    assert len(val) == 18


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0)), (2, (1, 1)), (3, (2, 1))])
def test_both_sides_have_a_dialogue_as_soon_as_there_are_two(count: int, sizes: tuple[int, int]) -> None:
    train, val = split_dialogues(numbered(count), val_frac=0.1, seed=0)
    assert (len(train), len(val)) == sizes


def test_copies_of_one_dialogue_alone_are_on_both_sides() -> None:
    train, val = split_dialogues(numbered(1) * 10, val_frac=0.1, seed=0)
    assert (len(train), len(val)) == (9, 1)


def test_a_byte_order_mark_is_not_a_part_of_the_first_dialogue(tmp_path: Path) -> None:
    (tmp_path / "primer.txt").write_bytes(b"\xef\xbb\xbfuser: hi\nassistant: ho\n")
    [dialogue] = read_dialogues([tmp_path / "primer.txt"])
    assert dialogue[0] == {"role": "user", "content": "hi"}


def test_a_fraction_of_zero_holds_nothing_out() -> None:
    assert split_dialogues(numbered(5), val_frac=0.0, seed=0)[1] == []
