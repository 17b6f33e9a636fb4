from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.options import parse_options
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT, check_checkpoint, check_session_name
from niels_gpt.conversation.settings import SETTINGS
from niels_gpt.text.files import UnreadableTextError


def test_without_flags_nothing_is_given_and_the_shipped_checkpoint_is_used() -> None:
    options = parse_options([])
    assert options.checkpoint == DEFAULT_CHECKPOINT
    assert options.settings == {}
    assert (options.system, options.session, options.store) == (None, None, None)
    assert (options.device, options.weights, options.use_cache) == ("cpu", "float32", True)
    assert options.speculation
    assert not parse_options(["--no-speculation"]).speculation


def test_every_setting_has_a_flag_and_only_given_ones_count() -> None:
    options = parse_options(["--temperature", "0.5", "--top-k", "none", "--max-new-tokens", "8"])
    assert options.settings == {"temperature": 0.5, "top_k": None, "max_new_tokens": 8}
    for setting in SETTINGS.values():
        assert setting.key in parse_options([setting.flag, setting.examples[-1]]).settings


def test_greedy_is_temperature_zero_whatever_else_is_said() -> None:
    assert parse_options(["--greedy", "--temperature", "0.9"]).settings["temperature"] == 0.0


def test_a_system_file_wins_over_the_system_text(tmp_path: Path) -> None:
    path = tmp_path / "system.txt"
    path.write_text("from a file ’\n", encoding="utf-8")
    assert parse_options(["--system", "text"]).system == "text"
    assert parse_options(["--system", "text", "--system-file", str(path)]).system == "from a file ’"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_system_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "system.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableTextError, match=r"system\.txt"):
        parse_options(["--system-file", str(path)])


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\x1bb"])
def test_what_is_plainly_no_session_name_is_refused_before_anything_loads(name: str) -> None:
    with pytest.raises(LoadFailed, match="cannot be a session name"):
        check_session_name(parse_options([f"--session={name}"]))


def test_a_missing_checkpoint_is_refused_before_anything_loads(tmp_path: Path) -> None:
    missing = tmp_path / "no.pt"
    with pytest.raises(LoadFailed, match="does not exist"):
        check_checkpoint(parse_options(["--ckpt", str(missing)]))
    with pytest.raises(LoadFailed, match="is a folder without a model in it"):
        check_checkpoint(parse_options(["--ckpt", str(tmp_path)]))


def test_resume_arguments_repeat_what_the_session_needs() -> None:
    options = parse_options(["--store", "s.db", "--ckpt", "c.pt", "--temperature", "0"])
    words = shlex.join(options.resume_arguments("my chat"))
    assert words == "niels-chat --session 'my chat' --store s.db --ckpt c.pt"


def test_a_resumed_session_keeps_its_int8_weights() -> None:
    words = parse_options(["--weights", "int8"]).resume_arguments("a")
    assert words == ["niels-chat", "--session", "a", "--weights", "int8"]
    assert parse_options(words[1:]).weights == "int8"


@pytest.mark.parametrize(
    "argv",
    [
        ["--top-k", "-1"],
        ["--nonsense"],
        ["--device", "abacus"],
        ["--weights", "int4"],
        ["--weights", "int8", "--device", "torch:cuda"],
        ["--weights", "int8", "--device", "auto"],
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert argv[0].lstrip("-").split("-")[0] in printed.err


def test_help_names_every_flag_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(["--help"]) == 0
    text = capsys.readouterr().out
    flags = (
        "--ckpt --session --max-new-tokens --temperature --top-k --top-p --repetition-penalty --seed "
        "--system --system-file --no-kv-cache --greedy --device --weights --store"
    )
    assert all(flag in text for flag in flags.split())
