from __future__ import annotations

from pathlib import Path

import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.config import FILE_VARIABLE, PREFIX, WrongConfig, configured
from niels_gpt.cli.options import found, parse_options
from niels_gpt.cli.preferences import CONFIGURABLE, DEFAULTS
from niels_gpt.conversation.settings import show


def environment(folder: Path, text: str = "", **variables: str) -> dict[str, str]:
    """An environment whose file holds `text`."""
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return {FILE_VARIABLE: str(path), **{PREFIX + name: value for name, value in variables.items()}}


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(tmp_path: Path) -> None:
    environ = environment(tmp_path, "top_k = 1\ntop_p = 0.1\ntemperature = 0.1\n", TOP_K="2", TOP_P="0.2")
    values = found({"top_k": 3}, environ)
    assert (values["top_k"].value, values["top_k"].source) == (3, "--top-k")
    assert (values["top_p"].value, values["top_p"].source) == (0.2, "NIELS_CHAT_TOP_P")
    assert values["temperature"].value == 0.1
    assert values["temperature"].source.endswith("config.toml:3")
    assert (values["seed"].value, values["seed"].source) == (42, "default")


def test_only_flags_change_a_session_that_is_resumed_the_rest_is_for_new_ones(tmp_path: Path) -> None:
    environ = environment(tmp_path, 'top_p = 0.1\nsystem = "be brief"\n')
    options = parse_options(["--top-k", "3"], environ)
    assert (options.settings, options.defaults) == ({"top_k": 3}, {"top_p": 0.1})
    assert (options.system, options.default_system) == (None, "be brief")


def test_what_is_configured_need_not_be_said_again_to_resume(tmp_path: Path) -> None:
    environ = environment(tmp_path, 'store = "s.db"\nckpt = "c.pt"\nweights = "int8"\n')
    assert parse_options([], environ).resume_arguments("a") == ["niels-chat", "--session", "a"]
    assert parse_options(["--store", "t.db"], environ).resume_arguments("a")[-2:] == ["--store", "t.db"]


def test_switches_are_true_or_false_in_the_file_and_words_in_the_environment(tmp_path: Path) -> None:
    options = parse_options([], environment(tmp_path, "vi = true\nmarkdown = true\n", MARKDOWN="off"))
    assert (options.vi, options.markdown) == (True, False)
    assert not parse_options(["--no-vi"], environment(tmp_path, "vi = true\n")).vi


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ntop_k = -3\n", r"config\.toml:2: top_k '-3' is not allowed: a whole number from 1 up"),
        ("temprature = 1\n", r"config\.toml:1: unknown key 'temprature' \(did you mean temperature\?\)"),
        ("# a\n[chat]\nx = 1\n", r"config\.toml:2: unknown key 'chat'; `niels-chat config` lists the keys"),
        ("seed = [1]\n", r"config\.toml:1: seed is a list: a 64-bit whole number"),
        ("greedy = true\n", r"config\.toml:1: unknown key 'greedy'; --greedy can only be a flag"),
        ("top_k = = 1\n", r"config\.toml is not TOML: .*line 1"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(WrongConfig, match=said):
        configured(environment(tmp_path, text))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TOP_P": "2"}, "NIELS_CHAT_TOP_P: top_p '2' is not allowed"),
        ({"TOPP": "0.5"}, r"unknown variable NIELS_CHAT_TOPP \(did you mean NIELS_CHAT_TOP_P\?\)"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    with pytest.raises(WrongConfig, match=said):
        configured(environment(tmp_path, **variables))


def test_a_file_that_is_not_there_says_nothing_and_one_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    assert configured({FILE_VARIABLE: str(tmp_path / "no.toml")}) == {}
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(WrongConfig, match="not UTF-8"):
        configured({FILE_VARIABLE: str(tmp_path / "b.toml")})


def test_config_shows_every_value_and_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(tmp_path, "top_k = 7\n").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    assert run_chat_cli(["config", "--temperature", "0"]) == 0
    printed = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in printed.out.splitlines()}
    assert rows["top_k"][1:] == ["7", f"{tmp_path / 'config.toml'}:1"]
    assert rows["temperature"][1:] == ["0", "--temperature"]
    assert set(rows) == {"KEY", *CONFIGURABLE}
    assert str(tmp_path / "config.toml") in printed.err


def test_a_wrong_value_ends_the_chat_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIELS_CHAT_SEED", "x")
    assert run_chat_cli([]) == 1
    assert capsys.readouterr().err.startswith("niels-chat: NIELS_CHAT_SEED: seed 'x' is not allowed")


def test_every_default_is_a_value_that_its_row_reads() -> None:
    for key, row in CONFIGURABLE.items():
        assert row.key == key
        if DEFAULTS[key] is not None:
            assert row.read(show(DEFAULTS[key])) == DEFAULTS[key]
        for example in row.examples:
            row.read(example)
