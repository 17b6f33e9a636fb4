"""Claims on replies in a store that several servers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from sessions import Store, StoreUnavailable, open_store
from sessions.claims import Claims
from tests.sessions import postgres_server


@pytest.fixture
def stores(postgresql_place: str) -> Iterator[tuple[Store, Store]]:
    with open_store(postgresql_place) as first, open_store(postgresql_place) as second:
        yield first, second


def claims_of(store: Store) -> Claims:
    found = store.claims()
    assert found is not None
    return found


def test_a_reply_is_claimed_by_one_program_until_that_releases_it(stores: tuple[Store, Store]) -> None:
    with closing(claims_of(stores[0])) as mine, closing(claims_of(stores[1])) as other:
        assert mine.take(7)
        assert mine.take(7)
        assert not other.take(7)
        assert other.take(8)
        assert mine.held == {7}
        mine.release(7)
        mine.release(8)  # not held: nothing happens
        assert other.take(7)
        assert not mine.take(8)


def test_ids_beyond_32_bits_are_claimed_too(stores: tuple[Store, Store]) -> None:
    with closing(claims_of(stores[0])) as mine, closing(claims_of(stores[1])) as other:
        assert mine.take(2**31 + 5)
        assert not other.take(2**31 + 5)
        assert other.take(5)


def test_the_claims_of_a_program_that_died_are_free_at_once(
    stores: tuple[Store, Store], server: postgres_server.Server
) -> None:
    with closing(claims_of(stores[0])) as mine, closing(claims_of(stores[1])) as other:
        assert mine.take(7)
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7"
        )
        assert other.take(7)
        with pytest.raises(StoreUnavailable):
            mine.take(9)
        assert mine.held == frozenset()
        assert mine.take(9)  # a new connection


def test_closing_gives_claims_back(stores: tuple[Store, Store]) -> None:
    mine = claims_of(stores[0])
    assert mine.take(7)
    mine.close()
    mine.close()
    with closing(claims_of(stores[1])) as other:
        assert other.take(7)


def test_a_sqlite_file_has_no_claims(tmp_path) -> None:
    with open_store(tmp_path / "sessions.db") as store:
        assert store.claims() is None
