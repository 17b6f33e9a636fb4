from __future__ import annotations

import io
import random

import pytest

from niels_gpt.terminal.markdown import Markdown
from niels_gpt.terminal.render import Screen

BOLD, ITALIC, CODE, PLAIN = "\x1b[0;1m", "\x1b[0;3m", "\x1b[0;36m", "\x1b[0m"


def rendered(*pieces: str) -> str:
    markdown = Markdown()
    found = [each for piece in pieces for each in markdown.feed(piece)] + list(markdown.finish())
    return "".join(each.text or each.sequence for each in found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a **b** c", f"a {BOLD}b{PLAIN} c"),
        ("a *b* c", f"a {ITALIC}b{PLAIN} c"),
        ("x `a*b` y", f"x {CODE}a*b{PLAIN} y"),
        ("# Title\ntext", f"{BOLD}Title{PLAIN}\ntext"),
        ("```py\nx **= 2\n```\nend", f"{CODE}```py\nx **= 2\n```{PLAIN}\nend"),
        ("**open\nnext", f"{BOLD}open{PLAIN}\nnext"),
        ("2 * 3 and a*b*c", "2 * 3 and a*b*c"),
        ("* item\n#hash\n# \n", f"* item\n#hash\n{BOLD}{PLAIN}\n"),
        ("snake_case_name", "snake_case_name"),
    ],
)
def test_marks_become_styles_and_other_text_stays(text: str, shown: str) -> None:
    assert rendered(text) == shown
    assert rendered(*text) == shown


def test_nothing_waits_but_a_mark_and_what_may_belong_to_it() -> None:
    markdown = Markdown()
    assert [each.text for each in markdown.feed("hello **")] == ["hello "]
    assert [each.text or each.sequence for each in markdown.feed("w")] == [BOLD, "w"]


def test_every_split_of_a_text_shows_the_same() -> None:
    shuffled = random.Random(3)
    for _ in range(300):
        text = "".join(shuffled.choices(["*", "**", "`", "```", "# ", "\n", "a", " ", "b c"], k=12))
        cut = shuffled.randint(1, len(text))
        assert rendered(text[:cut], text[cut:]) == rendered(text)


def test_a_screen_shows_markdown_only_when_asked_and_where_it_has_styles() -> None:
    for styled, wanted, shown in (
        (True, True, f"{BOLD}b{PLAIN}\n"),
        (True, False, "**b**\n"),
        (False, True, "**b**\n"),
    ):
        out = io.StringIO()
        screen = Screen(out, out, styled=styled, columns=lambda: 80)
        assert screen.render_markdown(wanted=wanted) is styled
        screen.text("**b**")
        screen.end_reply()
        assert out.getvalue() == shown
