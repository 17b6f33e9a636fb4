from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import TrainConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.text.chat_template import Message
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from niels_gpt.train.evaluate import (
    EvalItem,
    HeldOutError,
    Score,
    evaluate,
    is_decline,
    is_right,
    load_heldout,
    main,
    scores,
    with_system,
)


def asked(kind: str, question: str = "how?", *must: Sequence[str]) -> EvalItem:
    messages = ({"role": "user", "content": question},)
    return EvalItem(id=question, kind=kind, messages=messages, must=tuple(map(tuple, must)))


@pytest.mark.parametrize(
    ("reply", "declines"),
    [
        ("i don't know.", True),
        ("I don’t know that, ask niels.", True),
        ("niels-gpt does not say; i do not know.", True),
        ("the model knows four commands.", False),
        ("if i don't know something, i say so.", False),
        ("unknown commands are listed.", False),
    ],
)
def test_a_decline_says_that_it_does_not_know(reply: str, *, declines: bool) -> None:
    assert is_decline(reply) is declines


@pytest.mark.parametrize(
    ("item", "reply", "right"),
    [
        (asked("fact", "q", ["/temp"], ["0.9", "default"]), "use /TEMP; the Default is fine", True),
        (asked("fact", "q", ["/temp"], ["0.9", "default"]), "use /temp", False),
        (asked("fact", "q", ["/temp"]), "i don't know about /temp", False),
        (asked("fact", "q", ["don't know"]), "it says: i don’t know", True),
        (asked("smalltalk", "q", ["hello", "hi"]), "hi there!", True),
        (asked("unknown"), "i don't know that", True),
        (asked("unknown"), "it is 42", False),
        (asked("private"), "that is Private.", True),
        (asked("private"), "i don't know", False),
    ],
)
def test_each_kind_is_judged_by_its_own_rule(item: EvalItem, reply: str, *, right: bool) -> None:
    assert is_right(item, reply) is right


def test_scores_count_by_kind() -> None:
    answers = {"a": "yes", "b": "no", "c": "i don't know"}

    def replies(conversations: Sequence[Sequence[Message]]) -> list[str]:
        return [answers[messages[-1]["content"]] for messages in conversations]

    items = [asked("fact", "a", ["yes"]), asked("fact", "b", ["yes"]), asked("unknown", "c")]
    verdicts = evaluate(items, replies)
    assert [verdict.right for verdict in verdicts] == [True, False, True]
    assert scores(verdicts) == {"fact": Score(right=1, total=2), "unknown": Score(right=1, total=1)}


def test_the_default_system_prompt_opens_what_has_none() -> None:
    question = {"role": "user", "content": "hi"}
    own = {"role": "system", "content": "be brief"}
    assert with_system([question]) == [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, question]
    assert with_system([own, question]) == [own, question]


def line(**changes: object) -> str:
    usual = {"id": "x", "kind": "fact", "messages": [{"role": "user", "content": "hi"}], "must": [["a"]]}
    return json.dumps(usual | changes)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "not a held-out conversation"),
        ("[]", "not a held-out conversation"),
        (line(kind="riddle"), "kind is 'riddle'"),
        (line(messages=[{"role": "bot", "content": "hi"}]), "the role 'bot'"),
        (line(messages=[{"role": "assistant", "content": "hi"}]), "last message must be the user's"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, bad: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{line()}\n{bad}\n", encoding="utf-8")
    with pytest.raises(HeldOutError, match=rf"data\.jsonl:2.*{said}"):
        load_heldout(path)


@pytest.fixture
def checkpoint(model: GPT, tmp_path: Path) -> Path:
    path = tmp_path / "untrained.pt"
    cfg = TrainConfig()
    save_checkpoint(
        path, model_cfg=model.cfg, train_cfg=cfg, model=model, optimizer=None, step=0, best_val_loss=None
    )
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    system = {"role": "system", "content": "be brief"}
    messages = [system, {"role": "user", "content": "hi"}]
    path = tmp_path / "data.jsonl"
    path.write_text(f"{line(messages=messages)}\n{line(messages=messages, must=[])}\n", encoding="utf-8")
    return path


def test_the_command_judges_a_real_checkpoint(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ckpt", str(checkpoint), "--data", str(data), "--max-new-tokens", "3"]
    assert main([*flags, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kinds"]["fact"] == {"right": 1, "total": 2, "share": 0.5}
    assert [failure["question"] for failure in report["failures"]] == ["hi"]


def test_a_requirement_that_is_missed_exits_1(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ckpt", str(checkpoint), "--data", str(data), "--max-new-tokens", "3"]
    assert main([*flags, "--require", "fact=0.5"]) == 0
    assert main([*flags, "--require", "fact=0.85", "unknown=0.9"]) == 1
    printed = capsys.readouterr()
    assert "fact           1 of 2       50.0%" in printed.out
    assert printed.err.count("missed") == 2


def test_missing_data_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", "none.pt", "--data", "nowhere.jsonl"]) == 2
    printed = capsys.readouterr().err
    assert "nowhere.jsonl" in printed
    assert printed.count("\n") == 1
