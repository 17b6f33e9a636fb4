"""Fixtures of small models to decode with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from niels_gpt.model.gpt import GPT
from tests.model.models import FORMS, make_model


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def model(request: pytest.FixtureRequest) -> GPT:
    return make_model(request.param)


@pytest.fixture
def gelu_model() -> GPT:
    return make_model(FORMS["layernorm-gelu"])


@pytest.fixture
def new_model() -> Callable[..., GPT]:
    return make_model
