from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import TrainConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.paths import REPO_ROOT
from niels_gpt.text.chat_template import Message
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from niels_gpt.train.evaluate import (
    ALL,
    Replies,
    Score,
    compare,
    comparison_table,
    evaluate,
    failures_text,
    main,
    mcnemar_p,
    scores,
    table,
)
from niels_gpt.train.held_out import (
    GROUPS,
    EvalItem,
    HeldOutError,
    is_decline,
    is_right,
    load_heldout,
    with_system,
)


def asked(kind: str, question: str = "how?", *must: Sequence[str], group: str = "facts") -> EvalItem:
    messages = ({"role": "user", "content": question},)
    return EvalItem(id=question, group=group, kind=kind, messages=messages, must=tuple(map(tuple, must)))


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
        (asked("smalltalk", "q", ["hello", "hi"]), "this is it", False),
        (asked("fact", "q", ["--temp"]), "try --temperature", True),
        (asked("unknown"), "i don't know that", True),
        (asked("unknown"), "it is 42", False),
        (asked("private"), "that is Private.", True),
        (asked("private"), "i don't know", False),
    ],
)
def test_each_kind_is_judged_by_its_own_rule(item: EvalItem, reply: str, *, right: bool) -> None:
    assert is_right(item, reply) is right


def replies_of(answers: dict[str, str]) -> Replies:
    """A model that knows one answer to each question."""

    def replies(conversations: Sequence[Sequence[Message]]) -> list[str]:
        return [answers[messages[-1]["content"]] for messages in conversations]

    return replies


ITEMS = [
    asked("fact", "a", ["yes"], group="typos"),
    asked("fact", "b", ["yes"], group="facts"),
    asked("fact", "c", ["yes"], group="facts"),
    asked("unknown", "d", group="unanswerable"),
]
BETTER = {"a": "yes", "b": "yes", "c": "no", "d": "i don't know"}
WORSE = {"a": "yes", "b": "no", "c": "yes", "d": "it is 42"}


def test_scores_count_by_group() -> None:
    verdicts = evaluate(ITEMS, replies_of(BETTER))
    assert [verdict.right for verdict in verdicts] == [True, True, False, True]
    assert list(scores(verdicts).items()) == [
        ("facts", Score(right=1, total=2)),
        ("unanswerable", Score(right=1, total=1)),
        ("typos", Score(right=1, total=1)),
        (ALL, Score(right=3, total=4)),
    ]


def test_two_checkpoints_are_compared_question_by_question() -> None:
    a, b = evaluate(ITEMS, replies_of(BETTER)), evaluate(ITEMS, replies_of(WORSE))
    everything = compare(a, b)[ALL]
    assert (everything.a.right, everything.b.right) == (3, 2)
    assert (everything.only_a, everything.only_b) == (("b", "d"), ("c",))
    assert compare(a, b)["facts"].only_b == ("c",)
    assert compare(b, a)[ALL].only_a == everything.only_b
    printed = comparison_table(compare(a, b))
    assert "all            75.0%   50.0%       2      1   1.000" in printed
    assert "right in A, wrong in B: b d" in printed


def test_a_checkpoint_does_not_differ_from_itself() -> None:
    verdicts = evaluate(ITEMS, replies_of(BETTER))
    row = compare(verdicts, verdicts)[ALL]
    assert (row.only_a, row.only_b, row.p) == ((), (), 1.0)


def test_failures_are_listed_with_the_replies_of_both() -> None:
    a, b = evaluate(ITEMS, replies_of(BETTER)), evaluate(ITEMS, replies_of(WORSE))
    assert failures_text(a) == "\nfacts c\n  > c\n  no"
    listed = failures_text(a, b)
    assert [line for line in listed.splitlines() if line.startswith("  >")] == ["  > b", "  > c", "  > d"]
    assert "unanswerable d\n  > d\n  A right: i don't know\n  B wrong: it is 42" in listed


@pytest.mark.parametrize(
    ("right", "total", "interval"),
    [
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
    ],
)
def test_the_interval_is_wilson_s(right: int, total: int, interval: tuple[float, float]) -> None:
    """The last two are rows of table I in Newcombe, Statistics in Medicine 17 (1998), method 3."""
    assert Score(right=right, total=total).interval == pytest.approx(interval, abs=5e-5)


def test_an_interval_is_narrower_the_more_was_asked() -> None:
    few, many = Score(right=9, total=10).interval, Score(right=900, total=1000).interval
    assert few[0] < many[0] < 0.9 < many[1] < few[1]
    assert "facts            9 of 10      90.0%  59.6% to 98.2%" in table({"facts": Score(right=9, total=10)})


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 32), (1, 9, 22 / 1024), (9, 1, 22 / 1024)],
)
def test_p_is_the_two_sided_binomial_probability(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_p(only_a, only_b) == pytest.approx(p)


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
        (line(group="riddles"), "group is 'riddles'"),
        (line(messages=[{"role": "bot", "content": "hi"}]), "the role 'bot'"),
        (line(messages=[{"role": "assistant", "content": "hi"}]), "last message must be the user's"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, bad: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{line()}\n{bad}\n", encoding="utf-8")
    with pytest.raises(HeldOutError, match=rf"data\.jsonl:2.*{said}"):
        load_heldout(path)


def test_a_line_without_a_group_belongs_to_that_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{line()}\n{line(kind='unknown')}\n{line(group='typos')}\n", encoding="utf-8")
    assert [item.group for item in load_heldout(path)] == ["facts", "unanswerable", "typos"]


def test_the_held_out_questions_differ_and_can_be_judged() -> None:
    items = load_heldout(REPO_ROOT / "data/heldout.jsonl")
    # As the generator of the primer compares them: by their ASCII words.
    questions = {
        " ".join(re.findall(r"[a-z0-9/_'-]+", item.messages[-1]["content"].lower())) for item in items
    }
    assert len(questions - {""}) == len({item.id for item in items}) == len(items)
    assert {item.group for item in items} == set(GROUPS)
    for item in items:
        assert (item.must == ()) == (item.kind in {"unknown", "private"}), item.id
        assert all(item.must), item.id
        if item.kind != "private":
            assert is_right(item, "I don't know that.") == (item.kind == "unknown"), item.id


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
    score = report["groups"]["facts"]
    assert (score["right"], score["total"], score["share"]) == (1, 2, 0.5)
    assert [failure["question"] for failure in report["failures"]] == ["hi"]


def test_a_requirement_that_is_missed_exits_1(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ckpt", str(checkpoint), "--data", str(data), "--max-new-tokens", "3"]
    assert main([*flags, "--require", "facts=0.5", "all=0.5"]) == 0
    assert main([*flags, "--require", "facts=0.85", "small talk=0.9"]) == 1
    printed = capsys.readouterr()
    assert "facts            1 of 2       50.0%" in printed.out
    assert printed.err.count("missed") == 2


def test_missing_data_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", "none.pt", "--data", "nowhere.jsonl"]) == 2
    printed = capsys.readouterr().err
    assert "nowhere.jsonl" in printed
    assert printed.count("\n") == 1


def test_the_command_compares_two_checkpoints(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ckpt", str(checkpoint), "--compare", str(checkpoint), "--data", str(data)]
    assert main([*flags, "--max-new-tokens", "3", "--show-failures"]) == 0
    printed = capsys.readouterr().out
    assert "facts          50.0%   50.0%       0      0   1.000" in printed
    assert printed.count("wrong: ") == 2


def test_a_requirement_of_an_unknown_group_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", "none.pt", "--require", "fact=0.5"]) == 2
    assert "'fact=0.5': expected GROUP=SHARE" in capsys.readouterr().err
