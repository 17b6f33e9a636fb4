"""The scripts for shells, run by the shell itself where it is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from niels_gpt.cli.options import build_parser
from niels_gpt.cli.subcommands import SUBCOMMANDS
from niels_gpt.cli.subcommands.completion import SHELLS, script

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "niels-chat.bash"
    path.write_text("\n".join(script("bash")))
    return path


def completed(bash_script: Path, *words: str) -> list[str]:
    """What bash offers for the last word; the program itself is replaced by a list of sessions."""
    assert BASH is not None
    line = " ".join(f"'{word}'" for word in ("niels-chat", *words))
    code = f"""
        niels-chat() {{ printf 'first\\nsecond one\\n'; }}
        source {bash_script}
        COMP_WORDS=({line}); COMP_CWORD={len(words)}
        _niels_chat
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([BASH, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(BASH is None, reason="bash is not there")
def test_bash_completes_flags_values_commands_and_names_of_sessions(bash_script: Path) -> None:
    assert completed(bash_script, "--top") == ["--top-k", "--top-p"]
    assert completed(bash_script, "--device", "c") == ["cpu", "cuda"]
    assert completed(bash_script, "sess") == ["sessions"]
    assert completed(bash_script, "--session", "") == ["first", r"second\ one"]
    assert completed(bash_script, "show", "")[:2] == ["first", r"second\ one"]
    assert completed(bash_script, "completion", "--he") == ["--help"]
    assert completed(bash_script, "--temperature", "") == [""]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_knows_every_flag_and_command(shell: str) -> None:
    text = "\n".join(script(shell))
    for command in SUBCOMMANDS:
        assert command in text
    for action in build_parser()._actions:
        for flag in action.option_strings:
            assert (flag if shell != "fish" else f" {flag.lstrip('-')} ") in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_accepts_its_script(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not there")
    path = tmp_path / "script"
    path.write_text("\n".join(script(shell)))
    subprocess.run([program, "-n", str(path)], check=True, capture_output=True, timeout=30)
