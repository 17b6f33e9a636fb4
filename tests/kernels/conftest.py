from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.models import SHAPES, Built, build


@pytest.fixture(params=SHAPES, scope="session")
def built(request: pytest.FixtureRequest) -> Built:
    return build(SHAPES[request.param])


@pytest.fixture(scope="session")
def plain() -> Built:
    return build(SHAPES["default form"])


@pytest.fixture
def ids(built: Built) -> list[int]:
    return np.random.default_rng(3).integers(0, built.cfg.V, built.cfg.T).tolist()
