from __future__ import annotations

import pytest

from niels_gpt.conversation.settings import SETTINGS, Settings, show


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("temperature", "0", 0.0),
        ("temperature", " 0.7 ", 0.7),
        ("top_k", "0", None),
        ("top_k", "none", None),
        ("top_k", "50", 50),
        ("top_p", "1", 1.0),
        ("top_p", "None", None),
        ("repetition_penalty", "1.3", 1.3),
        ("max_new_tokens", "1", 1),
        ("seed", "-5", -5),
    ],
)
def test_a_setting_reads_what_it_allows(key: str, text: str, value: object) -> None:
    assert SETTINGS[key].read(text) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("temperature", "-0.1"),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "warm"),
        ("top_k", "-1"),
        ("top_k", "2.5"),
        ("top_p", "0"),
        ("top_p", "1.1"),
        ("repetition_penalty", "0"),
        ("max_new_tokens", "0"),
        ("max_new_tokens", "9" * 30),
        ("seed", str(2**63)),
        ("seed", ""),
    ],
)
def test_a_refused_value_is_quoted_with_what_is_allowed(key: str, text: str) -> None:
    with pytest.raises(ValueError, match="is not allowed: ") as refusal:
        SETTINGS[key].read(text)
    assert repr(text) in str(refusal.value)
    assert SETTINGS[key].allowed in str(refusal.value)


def test_settings_come_back_from_a_session_as_they_went_in() -> None:
    settings = Settings(
        temperature=0.25, top_k=None, top_p=0.1, repetition_penalty=1.5, max_new_tokens=9, seed=-3
    )
    assert Settings.from_stored(settings.stored(), seed=-3) == settings


def test_a_session_of_another_version_keeps_what_is_known() -> None:
    assert Settings.from_stored({"temperature": 0.5, "mood": "good"}, seed=42) == Settings(temperature=0.5)


def test_every_default_and_example_is_a_value_that_its_setting_reads() -> None:
    for key, setting in SETTINGS.items():
        default = getattr(Settings(), key)
        assert setting.read(show(default)) == default
        for example in setting.examples:
            setting.read(example)
