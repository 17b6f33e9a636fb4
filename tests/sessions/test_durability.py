"""Nothing that was acknowledged is lost: short versions of the campaigns that lie beside this file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    done = campaign("kill_campaign.py", "--kills", "30", "--folder", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 problems" in done.stdout
    assert "interrupted replies finished exactly" in done.stdout


def test_without_commits_the_same_campaign_finds_the_losses(tmp_path):
    done = campaign("kill_campaign.py", "--kills", "6", "--without-commits", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "is lost" in done.stderr
