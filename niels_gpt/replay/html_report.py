"""Draw an explained reply: each token shaded by how likely it was, the alternatives where a pointer rests.

One self-contained file, HTML or SVG: no script, no font and nothing else from elsewhere.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from niels_gpt.replay.explain import DECADES, Explained, ExplainedToken, certainty, shown_text
from niels_gpt.text.control_characters import harmless

_WIDTH, _LINE, _COLUMN, _MARGIN, _ABOVE = 900.0, 26.0, 8.4, 24.0, 84.0


@dataclass(frozen=True, kw_only=True)
class Attention:
    """How much one token of the reply looked at each token before it: weights sum to 1, heads averaged."""

    token: int
    layer: int
    texts: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Shaded:
    """A piece of text on a colour, and its title."""

    text: str
    colour: str
    title: str


def shaded_steps(explained: Explained) -> list[Shaded]:
    """Return the reply's tokens, from white for certain ones to orange for unlikely ones, by their odds."""
    return [
        Shaded(text=_visible(step.chosen.text), colour=_colour(step), title=_title(step))
        for step in explained.steps
    ]


def shaded_attention(attention: Attention) -> list[Shaded]:
    """Return the tokens before one, the bluer the more it looked at them."""
    most = max(attention.weights)
    return [
        Shaded(
            text=_visible(text),
            colour=_mixed((70, 130, 220), weight / most if most else 0.0),
            title=f"{weight:.2%}",
        )
        for text, weight in zip(attention.texts, attention.weights, strict=True)
    ]


def to_html(explained: Explained, attention: Attention | None, title: str) -> str:
    """Return a page."""
    parts = [_html_line(shaded_steps(explained))]
    if attention is not None:
        parts.append(f"<h2>{_escaped(_heading(attention))}</h2>" + _html_line(shaded_attention(attention)))
    body = "\n".join(parts)
    question = explained.question.recorded.user.content
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{_escaped(title)}</title>\n"
        "<style>body{font:16px/1.8 monospace;max-width:60em;margin:2em auto;color:#222;background:#fff}"
        "span{padding:.1em 0;border-radius:.2em;white-space:pre-wrap}h1,h2{font-size:1em}</style></head>\n"
        f"<body><h1>{_escaped(title)}</h1>\n<p>&gt; {_escaped(question)}</p>\n{body}\n"
        f"<p>{_escaped(_LEGEND)}</p></body></html>\n"
    )


def to_svg(explained: Explained, attention: Attention | None, title: str) -> str:
    """Return a drawing."""
    lines = [_svg_text(_MARGIN, 32, title, bold=True)]
    question = "> " + " ".join(explained.question.recorded.user.content.split())
    lines.append(_svg_text(_MARGIN, 58, question[:100]))
    drawn, below = _svg_tokens(shaded_steps(explained), _ABOVE)
    lines += drawn
    if attention is not None:
        lines.append(_svg_text(_MARGIN, below + 28, _heading(attention), bold=True))
        drawn, below = _svg_tokens(shaded_attention(attention), below + 40)
        lines += drawn
    lines.append(_svg_text(_MARGIN, below + 28, _LEGEND, size=12))
    height = below + 48
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH:.0f} {height:.0f}" font-family="monospace" font-size="14">\n'
        f'<title>{_escaped(title)}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


_BLANKS = str.maketrans({"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW}"})
_LEGEND = (
    "White = 10,000 : 1 and more, each shade of orange less sure, by tens; grey = forced; blue = looked at "
    "more. Hover over a word to see the alternatives."
)


def _html_line(pieces: Sequence[Shaded]) -> str:
    spans = (
        f'<span style="background:{each.colour}" title="{_escaped(each.title)}">{_escaped(each.text)}</span>'
        for each in pieces
    )
    return f"<p>{''.join(spans)}</p>"


def _svg_tokens(pieces: Sequence[Shaded], top: float) -> tuple[list[str], float]:
    """Return the tokens, line by line from `top` on, and where the last line ends."""
    drawn: list[str] = []
    x, y = _MARGIN, top
    for each in pieces:
        width = _COLUMN * max(1, _columns(each.text))
        if x + width > _WIDTH - _MARGIN:
            x, y = _MARGIN, y + _LINE
        drawn.append(
            f"<g><title>{_escaped(each.title)}</title>"
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_LINE - 4:.0f}" '
            f'fill="{each.colour}"/>{_svg_text(x, y + 16, each.text)}</g>'
        )
        x += width
    return drawn, y + _LINE


def _svg_text(x: float, y: float, text: str, *, bold: bool = False, size: int = 14) -> str:
    style = f'font-size="{size}"' + (' font-weight="bold"' if bold else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" {style} xml:space="preserve">{_escaped(text)}</text>'


def _columns(text: str) -> int:
    """Return how many columns a text takes: wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _title(step: ExplainedToken) -> str:
    how = "forced" if step.forced else f"{step.chosen.after:.1%} of what was drawn from"
    others = [
        f"{shown_text(each.text)!r} {each.after:.1%} ({each.before:.1%} of all)" for each in step.candidates
    ]
    return "\n".join([f"token {step.index}: {how}", *others])


def _colour(step: ExplainedToken) -> str:
    if step.forced:
        return "#dddddd"
    return _mixed((255, 140, 40), (DECADES - certainty(step)) / (2 * DECADES))


def _mixed(colour: tuple[int, int, int], share: float) -> str:
    """Return `share` of a colour on white."""
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in colour)


def _heading(attention: Attention) -> str:
    return f"what token {attention.token} looked at in layer {attention.layer}, heads averaged"


def _visible(text: str) -> str:
    return harmless(shown_text(text)).translate(_BLANKS)


def _escaped(text: str) -> str:
    """Return a text for HTML and XML alike, in content and in attributes."""
    return html.escape(harmless(text))
