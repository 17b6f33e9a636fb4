"""docs/server.md: its examples run, and its flags and addresses are the program's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from niels_gpt.serve_cli import build_parser
from tests.server.conftest import ThreadServer

TEXT = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
BASH = shutil.which("bash") or "bash"
ADDRESS = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("bash"))))
def test_the_commands_run(server: ThreadServer, tmp_path: Path, number: int) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = "set -euo pipefail\n" + blocks("bash")[number].replace(ADDRESS, server.url)
    done = subprocess.run(
        [BASH, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"error"' not in done.stdout


def test_the_program_runs(server: ThreadServer, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("python"):
        exec(block.replace(ADDRESS, server.url), {})  # noqa: S102 - that is the point
    said = capsys.readouterr().out
    whole, streamed = said.split("\n", 1)
    assert streamed.strip() in whole


def test_the_page_names_every_flag_of_the_server_and_no_other() -> None:
    flags = {
        option
        for action in build_parser()._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    shown = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert shown <= flags
    group = next(group for group in build_parser()._action_groups if group.title == "server")
    own = {option for action in group._group_actions for option in action.option_strings}
    assert own <= shown


def test_the_page_names_every_address(server: ThreadServer) -> None:
    known = set(server.json("GET", "/openapi.json")["paths"])
    for path in known:
        parts = re.sub(r"\{[^}]*\}", "", path).strip("/").split("/")
        assert all(part in TEXT for part in parts), path
