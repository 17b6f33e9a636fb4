"""Nothing that was acknowledged is lost: short versions of the campaigns that lie beside this file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sessions import power_cut_campaign

HERE = Path(__file__).parent


def campaign(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / program), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.timeout(120)
def test_kill_9_at_random_moments_loses_no_acknowledged_message(tmp_path):
    done = campaign("kill_campaign.py", "--kills", "14", "--folder", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 problems" in done.stdout
    assert "interrupted replies finished exactly" in done.stdout


def test_without_commits_the_same_campaign_finds_the_losses(tmp_path):
    done = campaign("kill_campaign.py", "--kills", "4", "--without-commits", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "is lost" in done.stderr


needs_a_compiler = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None,
    reason="logging writes needs a C compiler (Debian: apt install gcc)",
)


@needs_a_compiler
def test_a_power_cut_at_any_moment_loses_no_acknowledged_message(tmp_path, capsys):
    options = ["--states", "50", "--steps", "6", "--folder", str(tmp_path)]
    assert power_cut_campaign.main(options) == 0
    assert "50 states\n       0 problems" in capsys.readouterr().out


@needs_a_compiler
def test_without_syncs_the_same_power_cuts_lose_messages(tmp_path, capsys):
    options = ["--states", "25", "--steps", "4", "--without-sync", "--folder", str(tmp_path)]
    assert power_cut_campaign.main(options) == 1
    assert "states that lost acknowledged messages" in capsys.readouterr().out


@pytest.mark.timeout(120)
def test_four_programs_append_to_one_store_without_error_gap_or_duplicate(place):
    done = campaign("writers_campaign.py", "--appends", "10", "--store", str(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert "40 messages appended" in done.stdout


def test_without_the_write_lock_the_same_writers_fail(sqlite_place):
    options = ("--writers", "2", "--appends", "20", "--deferred")
    done = campaign("writers_campaign.py", *options, "--store", str(sqlite_place))
    assert done.returncode == 1
    assert "StoreLocked" in done.stderr
