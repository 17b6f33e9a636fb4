from __future__ import annotations

import random
from collections.abc import Callable

import pyte
import pytest

from niels_gpt.terminal.line_wrapper import Wrapper, clipped, width_of


def shown(text: str, width: int, *, cuts: Callable[[str], list[str]]) -> list[str]:
    """What a terminal of that width shows of a text that comes in pieces."""
    screen = pyte.Screen(width, 60)
    stream = pyte.Stream(screen)
    wrapper = Wrapper(lambda: width)
    for piece in cuts(text):
        stream.feed(wrapper.feed(piece).replace("\n", "\r\n"))
        assert screen.cursor.x == min(wrapper.column, width)
    return [line.rstrip() for line in screen.display if line.strip()]


def whole(text: str) -> list[str]:
    return [text]


def singly(text: str) -> list[str]:
    return list(text)


@pytest.mark.parametrize("cuts", [whole, singly])
def test_lines_break_between_words_however_the_text_comes(cuts: Callable[[str], list[str]]) -> None:
    assert shown("the quick brown fox jumps over", 12, cuts=cuts) == ["the quick", "brown fox", "jumps over"]


def test_a_word_is_shown_before_it_is_whole() -> None:
    wrapper = Wrapper(lambda: 80)
    assert wrapper.feed("hel") == "hel"
    assert wrapper.feed("lo wor") == "lo wor"


def test_a_piece_that_does_not_fit_moves_without_being_printed_first() -> None:
    wrapper = Wrapper(lambda: 10)
    assert wrapper.feed("twelve") == "twelve"
    assert wrapper.feed(" words") == " \nwords"


def test_a_word_that_outgrows_its_line_is_taken_back() -> None:
    wrapper = Wrapper(lambda: 10)
    wrapper.feed("one two")
    assert wrapper.feed("fold") == "\x1b[3D\x1b[K\ntwofold"


@pytest.mark.parametrize("cuts", [whole, singly])
def test_wide_characters_count_twice_and_may_begin_a_line(cuts: Callable[[str], list[str]]) -> None:
    lines = shown("日本語の文章です", 10, cuts=cuts)
    assert [line.replace(" ", "") for line in lines] == ["日本語の", "文章です"]


def test_a_word_longer_than_a_line_is_left_to_the_terminal() -> None:
    url = "https://example.org/" + "a" * 30
    assert "".join(shown(f"see {url} there", 20, cuts=singly)) == f"see{url} there"
    assert "\n" not in Wrapper(lambda: 20).feed(url)


def test_an_accent_belongs_to_its_letter() -> None:
    assert [width_of(each) for each in "e\u0301日a"] == [1, 0, 2, 1]
    assert shown("abc cafe\u0301 x", 9, cuts=singly) == ["abc café", "x"]


def test_an_accent_on_a_blank_stays_with_it_when_the_word_behind_moves() -> None:
    wrapper = Wrapper(lambda: 12)
    wrapper.feed("sixsix \u0301two")
    assert wrapper.feed("fold") == "\x1b[3D\x1b[K\ntwofold"


def test_after_a_resize_nothing_is_taken_back_before_the_next_line() -> None:
    width = 20
    wrapper = Wrapper(lambda: width)
    wrapper.feed("a line of words")
    width = 18
    assert wrapper.feed("worth") == "worth"
    assert "\x1b" not in wrapper.feed(" more\nnew li")
    assert wrapper.feed("nes and so on") == "nes and so \non"


def test_a_style_goes_with_a_word_that_moves() -> None:
    wrapper = Wrapper(lambda: 10)
    printed = wrapper.feed("some ") + wrapper.style("<b>") + wrapper.feed("bold") + wrapper.feed("er")
    assert printed.endswith("\x1b[4D\x1b[K\n<b>bolder")


def test_random_text_keeps_every_word_in_order_at_every_width() -> None:
    shuffled = random.Random(5)
    for _ in range(60):
        words = ["".join(shuffled.choices("abcdefgh", k=shuffled.randint(1, 7))) for _ in range(30)]
        width = shuffled.randint(9, 40)
        cut = shuffled.randint(1, 9)
        text = " ".join(words)
        lines = shown(
            text, width, cuts=lambda text, cut=cut: [text[n : n + cut] for n in range(0, len(text), cut)]
        )
        assert " ".join(lines).split() == words
        assert all(len(line) < width for line in lines)


def test_a_line_is_clipped_by_its_width_and_not_by_its_length() -> None:
    assert clipped("日本語", 5) == "日本"
    assert clipped("abc", 5) == "abc"
