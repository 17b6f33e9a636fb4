"""A few requests out of the schema; `schema_campaign.py` sends thousands."""

from __future__ import annotations

import pytest

from tests.server.conftest import ThreadServer


@pytest.mark.filterwarnings("ignore")  # of schemathesis and what it imports
def test_no_request_of_the_schema_is_answered_with_5xx(server: ThreadServer) -> None:
    from tests.server.schema_campaign import answers  # noqa: PLC0415 - a second of imports

    statuses, faults = answers(server.url, cases=1, in_turn=True)
    assert not faults
    assert statuses[200]
    assert statuses[400]
