"""A path below the home directory of a user who does not exist is one line, wherever a path is read."""

from __future__ import annotations

import pytest

from niels_gpt import serve_cli
from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.exit_codes import FAILED
from sessions import StoreUnavailable, open_store

NOWHERE = "~no-such-user/x.db"
SAID = f"{NOWHERE!r}: no home directory is known for '~no-such-user'\n"


@pytest.mark.parametrize(
    "words",
    [
        "--store ~ -p hi", "--ckpt ~ -p hi", "--system-file ~ -p hi", "sessions --store ~",
        "show a --store ~",
        "backup --store ~", "backup ~", "import ~", "export --all -o ~", "doctor --store ~",
        "doctor --recover --store ~", "models --folder ~",
    ],
)  # fmt: skip
def test_the_terminals_commands_name_it(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("data") / "s.db"
    open_store(path).close()
    monkeypatch.setenv("NIELS_CHAT_STORE", str(path))
    status = run_chat_cli([word.replace("~", NOWHERE) for word in words.split()])
    error = capsys.readouterr().err
    assert status == FAILED
    assert error.endswith(SAID)
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--store", "--ckpt", "--api-key-file"])
def test_the_server_names_it(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve_cli.run_serve_cli([flag, NOWHERE, "--port", "0"]) == FAILED
    assert capsys.readouterr().err == f"niels-serve: {SAID}"


def test_the_store_names_it() -> None:
    with pytest.raises(StoreUnavailable, match="no home directory is known for '~no-such-user'"):
        open_store(NOWHERE)
