from __future__ import annotations

import numpy as np
import pytest

from niels_gpt.kernels import WeightForm
from tests.kernels.models import FORMS, SHAPES, Built, build


@pytest.fixture(params=FORMS, scope="session")
def form(request: pytest.FixtureRequest) -> WeightForm:
    return request.param


@pytest.fixture(params=SHAPES, scope="session")
def built(request: pytest.FixtureRequest, form: WeightForm) -> Built:
    return build(SHAPES[request.param], form=form)


@pytest.fixture(scope="session")
def plain() -> Built:
    return build(SHAPES["default form"])


@pytest.fixture
def ids(built: Built) -> list[int]:
    return np.random.default_rng(3).integers(0, built.cfg.V, built.cfg.T).tolist()
