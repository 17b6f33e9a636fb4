"""Named system prompts with settings, from files next to the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.config import FILE_VARIABLE, WrongConfig
from niels_gpt.cli.options import parse_options
from niels_gpt.cli.personas import persona_names, read_persona
from sessions import open_store
from tests.chat.test_pipe import piped


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "personas"
    folder.mkdir()
    (folder / "poet.toml").write_text('system = """Rhyme.\nAlways."""\ntemperature = 0.5\n', encoding="utf-8")
    (folder / "sure.toml").write_text("temperature = 0\ntop_k = 1\n", encoding="utf-8")
    (folder / "notes.txt").touch()
    return {FILE_VARIABLE: str(tmp_path / "config.toml")}


def test_personas_are_listed_and_read(environ: dict[str, str]) -> None:
    assert persona_names(environ) == ["poet", "sure"]
    poet = read_persona("poet", environ)
    assert (poet.system, poet.settings) == ("Rhyme.\nAlways.", {"temperature": 0.5})
    assert read_persona("sure", environ).system is None


def test_a_persona_counts_as_flags_and_flags_win(environ: dict[str, str]) -> None:
    options = parse_options(["--persona", "poet", "--top-p", "0.5"], environ)
    assert (options.system, options.settings) == ("Rhyme.\nAlways.", {"temperature": 0.5, "top_p": 0.5})
    options = parse_options(["--persona", "poet", "--temp", "1", "--system", "Be brief."], environ)
    assert (options.system, options.settings) == ("Be brief.", {"temperature": 1.0})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pot", "unknown persona 'pot': there are poet, sure; a persona is a file in "),
        ("../config", "unknown persona '../config'"),
        ("bad", "bad.toml:2: unknown key 'temp' (did you mean temperature?)"),
        ("hot", "hot.toml:1: temperature 'hot' is not allowed: a number"),
    ],
)
def test_a_wrong_persona_is_one_line(name: str, said: str, environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(WrongConfig, match="there are none yet"):
        read_persona("poet", {FILE_VARIABLE: str(tmp_path / "elsewhere" / "config.toml")})
    if name in {"bad", "hot"}:
        text = {"bad": "# mine\ntemp = 1\n", "hot": 'temperature = "hot"\n'}[name]
        (tmp_path / "personas" / f"{name}.toml").write_text(text, encoding="utf-8")
    with pytest.raises(WrongConfig) as caught:
        read_persona(name, environ)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_persona_sets_is_in_the_session_and_its_replies(
    environ: dict[str, str], tmp_path: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILE_VARIABLE, environ[FILE_VARIABLE])
    _, _, notices = piped(tmp_path, b"/persona\n/persona poet\nhi\n/persona sure\nagain\n", scripted())
    assert "personas: poet, sure\n" in notices
    assert "temperature: 0.5, was 0.9\npersona 'poet', from the next message on\n" in notices
    with open_store(tmp_path / "sessions.db") as store:
        session = store.session("a")
        assert [each.content for each in store.path(session.id) if each.role == "system"] == [
            "Rhyme.\nAlways."
        ]
        made = [turn.generation.sampling for turn in store.recorded_turns(session.id)]
        assert (session.settings["temperature"], session.settings["top_k"]) == (0.0, 1)
    assert [(each["temperature"], each["top_k"]) for each in made] == [(0.5, 50), (0.0, 1)]


def test_the_names_are_printed_for_completion(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FILE_VARIABLE, environ[FILE_VARIABLE])
    assert run_chat_cli(["config", "--personas"]) == 0
    assert capsys.readouterr().out == "poet\nsure\n"
