"""The scripts for shells, run by the shell itself where it is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from niels_gpt.cli.generate import options as generate_options
from niels_gpt.cli.options import build_parser
from niels_gpt.cli.subcommands import SUBCOMMANDS
from niels_gpt.cli.subcommands.completion import PROGRAMS, SHELLS, script

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "niels-chat.bash"
    path.write_text("\n".join(script("bash")))
    return path


def completed(bash_script: Path, *words: str, function: str = "_niels_chat") -> list[str]:
    """What bash offers for the last word; the program itself is replaced by a list of sessions."""
    assert BASH is not None
    line = " ".join(f"'{word}'" for word in ("niels-chat", *words))
    code = f"""
        niels-chat() {{ printf 'first\\nsecond one\\n'; }}
        source {bash_script}
        COMP_WORDS=({line}); COMP_CWORD={len(words)}
        {function}
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


@pytest.mark.skipif(BASH is None, reason="bash is not there")
def test_bash_completes_the_flags_of_niels_generate(tmp_path: Path) -> None:
    path = tmp_path / "niels-generate.bash"
    path.write_text("\n".join(script("bash", "niels-generate")))
    assert completed(path, "--prompt", function="_niels_generate") == [
        "--prompt",
        "--prompts",
        "--prompt_tokens",
    ]
    assert completed(path, "--device", "c", function="_niels_generate") == ["cpu", "cuda"]
    assert completed(path, "", function="_niels_generate")[:2] == ["-h", "--help"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_knows_every_flag_of_niels_generate(shell: str) -> None:
    text = "\n".join(script(shell, "niels-generate"))
    assert "sessions" not in text
    for action in generate_options.build_parser()._actions:
        for flag in action.option_strings:
            assert (flag if shell != "fish" else f" {flag.lstrip('-')} ") in text


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_accepts_its_script(shell: str, program: str, tmp_path: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not there")
    path = tmp_path / "script"
    path.write_text("\n".join(script(shell, program)))
    subprocess.run([found, "-n", str(path)], check=True, capture_output=True, timeout=30)
