"""What else a reply could have said: recomputed to the bit; no text breaks out of its picture."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.decoding.backend import Backend
from niels_gpt.replay.explain import (
    Candidate,
    Explained,
    _small,
    certainty,
    explain,
    explain_last,
    step_lines,
)
from niels_gpt.replay.html_report import Attention, to_html, to_svg
from niels_gpt.replay.reconstruct import ask
from niels_gpt.replay.replay import Replay
from sessions import open_store
from tests.replay.recordings import talking

HOSTILE = "</text><script>alert(1)</script>\x1b[2J\x00&\"'"


@pytest.fixture
def explained(replayed: Callable[..., Replay], model: Backend) -> list[Explained]:
    return [explain(model, ask(model, question)) for question in replayed().questions]


def test_every_recorded_token_fits_its_draw_and_the_logits_are_the_recorded_ones(
    explained: list[Explained],
) -> None:
    for each in explained:
        assert each.same_bits
        assert all(step.fits for step in each.steps)
        assert [step.chosen.token_id for step in each.steps] == list(
            each.question.recorded.reply.token_ids or ()
        )


def test_another_token_does_not_fit(explained: list[Explained]) -> None:
    step = next(step for step in explained[0].steps if 0.01 < step.chosen.after < 0.9)
    assert not replace(step, draw=(step.high + 1e-9) % 1.0).fits


def test_the_smallest_margin_is_the_recorded_one(explained: list[Explained]) -> None:
    for each in explained:
        closest: Any = (each.question.recorded.generation.receipt or {})["smallest_margin"]
        margin = each.steps[closest["index"]].margin
        if margin is not None:
            assert margin == pytest.approx(closest["value"], abs=1e-6)


def test_probabilities_sum_to_one_and_what_is_drawn_from_is_part_of_all(explained: list[Explained]) -> None:
    for step in explained[0].steps:
        assert 0.0 < sum(each.before for each in step.candidates) <= 1.0 + 1e-9
        assert sum(each.after for each in step.candidates) <= 1.0 + 1e-9


def test_forced_tokens_are_named(replayed: Callable[..., Replay], model: Backend) -> None:
    fork = explain(model, ask(model, replayed("talk at 7").questions[-1]))
    assert [step.forced for step in fork.steps] == [True] * 7 + [False] * 17
    assert fork.same_bits
    lines = list(step_lines(fork))
    assert ["forced" in line for line in lines[1:-2]] == [step.forced for step in fork.steps]
    assert all(step.fits is True for step in fork.steps)
    assert to_html(fork, None, "t").count(": forced") == 7


def test_every_token_has_its_runner_up_and_a_scale(explained: list[Explained]) -> None:
    header, *lines, legend, _ = step_lines(explained[0])
    at = header.index("|")
    assert "ten times more certain" in legend
    for step, line in zip(explained[0].steps, lines, strict=True):
        second = next(each for each in step.candidates if each.token_id != step.chosen.token_id)
        assert repr(second.text) in line[at:] or "(end)" in line[at:]
        assert line[at] == "|"
        assert line[at - 4 : at].count("-") + line[at : at + 5].count("+") == abs(round(certainty(step)))


def test_the_chat_explains_its_last_reply(store_path: Path, model: Backend) -> None:
    async def ask_why() -> Explained:
        with open_store(store_path) as store:
            async with talking(store, model, "talk") as conversation:
                return await explain_last(conversation)

    found = anyio.run(ask_why)
    assert found.same_bits
    lines = list(step_lines(found, 3))
    assert sum(line.startswith("*") for line in lines) <= 1
    assert lines[-2].startswith("drawn: 0.")
    assert lines[-1] == "matches the recording"


class Tags(HTMLParser):
    """Remembers what a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember a tag."""
        del attrs
        self.tags.append(tag)


def drawn_tokens(drawing: str) -> int:
    """Parse a drawing, as strictly as XML is parsed, and count its tokens."""
    root = ElementTree.fromstring(drawing)  # noqa: S314 - our own drawing, and its strictness is the test
    return len(root.findall("{http://www.w3.org/2000/svg}g"))


def hostile(explained: Explained) -> Explained:
    """The same reply, its tokens and question written by somebody who wants out of the page."""
    recorded = explained.question.recorded
    user = replace(recorded.user, content=HOSTILE)
    steps = tuple(replace(step, chosen=replace(step.chosen, text=HOSTILE)) for step in explained.steps)
    question = replace(explained.question, recorded=replace(recorded, user=user))
    return replace(explained, question=question, steps=steps)


def test_no_text_breaks_out_of_a_picture(explained: list[Explained]) -> None:
    reply = hostile(explained[0])
    attention = Attention(token=1, layer=0, texts=(HOSTILE, "b"), weights=(0.75, 0.25))
    page, drawing = to_html(reply, attention, HOSTILE), to_svg(reply, attention, HOSTILE)
    seen = Tags()
    seen.feed(page)
    assert "script" not in seen.tags
    assert seen.tags.count("span") == len(reply.steps) + 2
    assert drawn_tokens(drawing) == len(reply.steps) + 2
    assert "\x1b" not in page + drawing


def test_a_drawing_puts_its_tokens_side_by_side_and_line_below_line(explained: list[Explained]) -> None:
    root = ElementTree.fromstring(to_svg(explained[0], None, "t"))  # noqa: S314 - our own drawing
    boxes = [box.attrib for box in root.findall("{*}g/{*}rect")]
    places = [tuple(float(box[name]) for name in ("x", "y", "width", "height")) for box in boxes]
    for (x, y, width, height), (next_x, next_y, _, _) in itertools.pairwise(places):
        assert (next_x, next_y) == pytest.approx((x + width, y)) or (
            next_x == places[0][0] and next_y >= y + height
        )


@pytest.mark.parametrize(
    ("before", "sure"), [(0.5, 0.0), (0.9, 0.954), (0.1, -0.954), (1.0, 4.0), (0.0, -4.0), (0.99999, 4.0)]
)
def test_certainty_is_the_logarithm_of_the_odds(
    explained: list[Explained], before: float, sure: float
) -> None:
    step = explained[0].steps[0]
    assert certainty(replace(step, chosen=replace(step.chosen, before=before))) == pytest.approx(
        sure, abs=1e-3
    )


@pytest.mark.parametrize(
    ("after", "before", "text"), [(0.25, 0.5, "25%"), (0.0, 0.25, "25.0%"), (0.001, 0.001, "1e-03")]
)
def test_another_token_has_its_share_of_what_was_drawn_from_or_else_of_all(
    after: float, before: float, text: str
) -> None:
    assert _small(Candidate(token_id=1, text="a", before=before, after=after)) == text


def test_the_end_of_a_reply_is_shown_without_its_control_token(explained: list[Explained]) -> None:
    last = explained[0].steps[-1]
    end = replace(last.chosen, text="<|eot|>")
    ended = replace(last, chosen=end, candidates=(end, *last.candidates))
    reply = replace(explained[0], steps=(*explained[0].steps[:-1], ended))
    for shown in ("\n".join(step_lines(reply)), to_html(reply, None, "t"), to_svg(reply, None, "t")):
        assert "(end)" in shown
        assert "eot" not in shown


def test_the_command_writes_both_pictures_with_what_a_token_looked_at(
    store_path: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--store", str(store_path), "--ckpt", str(checkpoint), "--turn", "1"]
    pictures = ["--svg", str(tmp_path / "a.svg"), "--html", str(tmp_path / "a.html"), "--layer", "1"]
    assert run_chat_cli(["why", "talk", *words, *pictures, "--token", "4"]) == 0
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert drawn_tokens(text) > 24
    assert "what token 4 looked at in layer 1" in text
    assert "what token 4 looked at in layer 1" in (tmp_path / "a.html").read_text("utf-8")
    capsys.readouterr()
    assert run_chat_cli(["why", "talk", *words, "--layer", "7", "--svg", str(tmp_path / "b.svg")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_programs_get_a_json_object_a_token(
    store_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--store", str(store_path), "--ckpt", str(checkpoint), "--json"]
    assert run_chat_cli(["why", "talk", "--turn", "2", *words]) == 0
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [step["index"] for step in steps] == list(range(24))
    assert steps[0]["candidates"][0].keys() == {"token_id", "text", "before", "after"}
