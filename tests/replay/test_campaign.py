"""A short campaign: a session with everything in it, killed in the middle of a reply, replays exactly."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.backend import Backend
from niels_gpt.replay.replay import replay
from sessions import open_store
from tests.replay import campaign, long_session
from tests.replay.recordings import loaded


@pytest.mark.timeout(120)
def test_a_session_that_was_killed_in_the_middle_replays_exactly(
    checkpoint: Path, model: Backend, tmp_path: Path
) -> None:
    path = tmp_path / "sessions.db"
    assert campaign.cut_off(path, checkpoint, turns=10, at=5)
    options = ChatOptions(checkpoint=checkpoint, checkpoint_given=True)
    with open_store(path) as store:
        # The reply is finished by another process than the one that began it, and the talk goes on.
        assert anyio.run(long_session.until_fork, store, model, 10) == 7
        for name, least in ((long_session.NAME, 8), ("fork 6", 8)):
            found = anyio.run(
                lambda name=name: replay(
                    store, name, options, lambda given: loaded(given.checkpoint), every_branch=True
                )
            )
            assert [verdict.kind for verdict in found.verdicts] == ["exact"] * len(found.verdicts)
            assert len(found.verdicts) >= least
