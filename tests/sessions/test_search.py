"""Full-text search: words find messages, and no text is an error."""

from __future__ import annotations

import pytest

from sessions import InvalidValue, open_store, search
from sessions.tables import MessageRow, SessionRow


def found(store, text, **page):
    return [hit.snippet for hit in store.search(text, **page)]


@pytest.fixture
def talk(store, session, exchange):
    exchange(store, session, "What is attention?", "A weighted look at what came before.")
    exchange(store, session, "Is it quadratic?", 'Yes: "every token" looks at every-other one.')
    return session


def test_a_message_is_found_by_its_words_in_any_order_and_case(store, talk):
    (hit,) = store.search("WEIGHTED before")
    assert (hit.session_name, hit.session_id, hit.role, hit.position) == ("talk", talk.id, "assistant", 2)
    assert hit.snippet == "A weighted look at what came before."
    assert hit.message_id == store.path(talk.id)[2].id


def test_of_a_longer_search_the_first_64_different_words_count():
    words = [f"w{number}" for number in range(70)]
    assert search.words_of(" ".join([*words[:3], *words])) == words[:64]


def test_all_words_must_be_there(store, talk):
    assert found(store, "weighted quadratic") == []


def test_newer_messages_come_first_a_page_at_a_time(store, talk):
    assert found(store, "is") == ["Is it quadratic?", "What is attention?"]
    assert found(store, "is", limit=1, offset=1) == ["What is attention?"]
    with pytest.raises(InvalidValue, match="limit"):
        store.search("is", limit=-1)


STRANGE = [
    "", " ", '"', '"every token"', "every-other", "AND", "a OR", "NEAR(", "content:x", "*", "-x", "(", "^",
    "'; DROP TABLE message; --", "\\", "%", "_", "\0", "\udc80", "a\0b", "&|!:*<->", "''", "\x1a0",
    "x" * 100_000, " ".join(map(str, range(5000))),
]  # fmt: skip


def test_no_text_is_an_error(store, talk):
    for text in STRANGE:
        assert isinstance(store.search(text), list)
    assert len(store.path(talk.id)) == 5


def test_what_stands_between_quotes_and_dashes_is_text(store, talk):
    assert len(found(store, '"every token"')) == 1
    assert len(found(store, "every-other")) == 1


def test_a_reply_is_found_as_soon_as_it_is_stored_and_what_was_refused_never(store, session, asked, exchange):
    with pytest.raises(InvalidValue):
        store.begin_turn(
            session.id, content="nowhere \ud800", expected_head=session.head_id, generation=asked(store)
        )
    exchange(store, session, "hi", "somewhere")
    assert found(store, "somewhere") == ["somewhere"]
    assert found(store, "nowhere") == []


def test_archived_sessions_are_left_out(store, talk):
    store.archive(talk.id)
    assert found(store, "attention") == []


def test_a_snippet_is_one_short_line_around_the_first_word_found(store, session, exchange):
    exchange(store, session, "lead " * 50 + "needle\nand " + "tail " * 100, "x")
    (snippet,) = found(store, "needle")
    assert snippet.startswith("…")
    assert "needle and tail" in snippet
    assert snippet.endswith("…")
    assert len(snippet) < 170


def test_a_database_of_another_kind_compares_letters(store, talk):
    def found_by_letters(words):
        query = search.with_letters(words).join(SessionRow, SessionRow.id == MessageRow.session_id)
        with store._database.reading() as transaction:
            return [message.content for message, _ in transaction.exec(query)]

    assert found_by_letters(["QUADRATIC", "is"]) == ["Is it quadratic?"]
    assert found_by_letters(["%"]) == []


@pytest.fixture
def languages(store, session, exchange):
    exchange(store, session, "東京タワーへ行きたいです。", "Crème brûlée and an ÅNGSTRÖM")
    exchange(store, session, "北京烤鸭 is duck", "สวัสดีครับ ยินดีต้อนรับ")
    return session


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("東京", "東京タワー"),
        ("タワー", "東京タワー"),
        ("東京タワーへ", "東京タワー"),
        ("塔", None),
        ("東京 北京", None),
        ("烤", "北京烤鸭"),
        ("duck 北京烤", "北京烤鸭"),
        ("goose 北京烤", None),
        ("ยินดี", "สวัสดี"),
        ("creme BRULEE", "Crème"),
        ("crème", "Crème"),
        ("cre\u0300me", "Crème"),
        ("ångström", "Crème"),
        ("%京", None),
    ],
)
def test_words_are_found_in_any_script_whatever_their_case_and_accents(store, languages, text, start):
    hits = found(store, text)
    assert [hit.startswith(start or "-") for hit in hits] == ([] if start is None else [True])


def test_only_messages_without_blanks_are_in_the_second_index(sqlite_place, exchange):
    with open_store(sqlite_place) as store:
        talk = store.create_session("talk", seed=1, system=None, settings={})
        exchange(store, talk, "only English words", "東京タワー")
        with store._database.reading() as transaction:
            there = "SELECT rowid FROM message_trigrams WHERE message_trigrams MATCH '\"タワー\"'"
            connection = transaction.connection()
            assert connection.exec_driver_sql(there).scalars().all() == [2]
            english = there.replace("タワー", "English")
            assert connection.exec_driver_sql(english).scalars().all() == []
        store.archive(talk.id)
        store.purge(talk.id)
        assert store.check() == []


def test_without_the_second_index_letters_are_compared(store, languages, monkeypatch):
    monkeypatch.setattr(search, "_has_trigrams", lambda _: False)
    assert len(found(store, "東京タワー")) == 1
