"""A checkpoint that is ready to answer, as it is recorded with its replies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from niels_gpt.conversation import model
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.model.fingerprint import Fingerprint


def test_the_absolute_path_of_a_checkpoint_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = SimpleNamespace(
        tokenizer=None,
        template=None,
        cfg=SimpleNamespace(context=16, to_dict=dict),
        step=1,
        path=Path("runs/best.pt"),
        notice=None,
    )
    fingerprint = Fingerprint(weights="w", config="c", tokenizer="t", template="m")
    backend = SimpleNamespace(fingerprint=fingerprint, environment={}, decoder=None, notice=None)
    monkeypatch.setattr(model, "load_checkpointed_model", lambda *_, **__: loaded)
    monkeypatch.setattr(model, "open_backend", lambda *_, **__: backend)
    chat_model = model.ChatModel(ChatOptions(checkpoint=Path("runs/best.pt")))
    assert chat_model.checkpoint["path"] == str(tmp_path / "runs" / "best.pt")
