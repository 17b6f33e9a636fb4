"""The text assembler against one-shot decoding: same text for any bytes, any stop sequences, any cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from niels_gpt.text.detokenizer import Detokenizer

BYTES = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.lists(
        st.sampled_from([b"\n", b"u", b"s", b"us", b"\nus", "é".encode(), b"\xc3", b"\xe2\x82", b"\xff"])
    ).map(b"".join),
)
STOPS = st.lists(
    st.one_of(
        st.sampled_from([b"\nus", b"\ns", b"s", b"\n\n", b"uu", b"\xa9"]), st.binary(min_size=1, max_size=4)
    ),
    max_size=3,
)
CUTS = st.lists(st.integers(1, 5), min_size=40, max_size=40)


def before_first_stop(data: bytes, stops: list[bytes]) -> bytes:
    """Read byte by byte until one of the stops is complete; the longest of those that end there counts."""
    for end in range(len(data) + 1):
        complete = [stop for stop in stops if data[:end].endswith(stop)]
        if complete:
            return data[: end - max(map(len, complete))]
    return data


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for length in cuts:
        pieces.append(data[start : start + length])
        start += length
    return [*pieces, data[start:]]


def deltas_of(pieces: list[bytes], stops: list[bytes]) -> list[str]:
    assembler = Detokenizer(pieces.__getitem__, stops)
    deltas = [assembler.push(token_id) for token_id in range(len(pieces))]
    return [*deltas, assembler.finish()]


@given(data=BYTES, stops=STOPS, cuts=CUTS)
@example(data=b"abc", stops=[b"abc", b"b"], cuts=[3] * 40)
def test_the_deltas_make_the_text_before_the_first_stop(
    data: bytes, stops: list[bytes], cuts: list[int]
) -> None:
    expected = before_first_stop(data, stops).decode("utf-8", errors="replace")
    assert "".join(deltas_of(pieces_of(data, cuts), stops)) == expected


@given(text=st.text(max_size=30), cuts=CUTS)
def test_valid_text_never_shows_a_replacement_before_its_end(text: str, cuts: list[int]) -> None:
    text = text.replace("�", "")
    for delta in deltas_of(pieces_of(text.encode(), cuts), []):
        assert "�" not in delta


@given(data=BYTES, stops=STOPS, cuts=CUTS)
def test_what_was_shown_is_never_taken_back(data: bytes, stops: list[bytes], cuts: list[int]) -> None:
    final = before_first_stop(data, stops).decode("utf-8", errors="replace")
    shown = ""
    for delta in deltas_of(pieces_of(data, cuts), stops):
        shown += delta
        assert final.startswith(shown)


def test_decoding_each_piece_alone_would_break_a_character() -> None:
    pieces = ["é".encode()[:1], "é".encode()[1:]]
    assert "".join(piece.decode(errors="replace") for piece in pieces) != "é"
    assert "".join(deltas_of(pieces, [])) == "é"


def test_a_possible_stop_is_held_back_until_it_is_none() -> None:
    assert deltas_of([b"hi", b"\nuser", b"s", b"!"], [b"\nuser: "]) == ["hi", "", "\nusers", "!", ""]


def test_it_says_that_it_stopped_and_then_stays_silent() -> None:
    pieces = [b"hi\nus", b"er: ", b"more"]
    assembler = Detokenizer(pieces.__getitem__, [b"\nuser: "])
    assert (assembler.push(0), assembler.stopped) == ("hi", False)
    assert (assembler.push(1), assembler.stopped) == ("", True)
    assert (assembler.push(2), assembler.finish()) == ("", "")


def test_an_unfinished_stop_is_text_at_the_end() -> None:
    assert deltas_of([b"a\nuse"], [b"\nuser: "]) == ["a", "\nuse"]


def test_an_empty_stop_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Detokenizer(lambda _: b"", [b""])
