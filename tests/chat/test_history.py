from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from prompt_toolkit.history import FileHistory, InMemoryHistory

from niels_gpt.chat.history import AppendingHistory, open_history


def test_entries_come_back_newest_first_in_the_format_of_prompt_toolkit(tmp_path: Path) -> None:
    history = open_history(tmp_path / "state")
    for entry in ("one", "two\nlines", "’"):
        history.store_string(entry)
    expected = ["’", "two\nlines", "one"]
    assert list(open_history(tmp_path / "state").load_history_strings()) == expected
    assert list(FileHistory(str(tmp_path / "state" / "history")).load_history_strings()) == expected


def test_only_the_user_can_read_it(tmp_path: Path) -> None:
    open_history(tmp_path / "state").store_string("secret")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "history").stat().st_mode) == 0o600


def test_where_nothing_can_be_kept_the_chat_still_has_a_history(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    assert isinstance(open_history(tmp_path / "state"), InMemoryHistory)


WRITER = """
import sys
from pathlib import Path
from niels_gpt.chat.history import AppendingHistory
history = AppendingHistory(Path(sys.argv[1]))
for number in range(200):
    history.store_string(f"{sys.argv[2]} {number}\\nsecond line of {sys.argv[2]} {number}")
"""


def test_two_programs_at_once_do_not_mix_their_entries(tmp_path: Path) -> None:
    path = tmp_path / "history"
    programs = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("left", "right")
    ]
    assert [program.wait(30) for program in programs] == [0, 0]
    entries = list(AppendingHistory(path).load_history_strings())
    whole = {f"{name} {n}\nsecond line of {name} {n}" for name in ("left", "right") for n in range(200)}
    assert set(entries) == whole
    assert len(entries) == 400
