"""Report what a replay found, as lines for a person and as values for a program."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict

from niels_gpt.replay.replay import Replay
from niels_gpt.replay.verdict import Difference, Divergence, Kind, Verdict

WORDS: dict[Kind, str] = {
    "exact": "exact", "tokens_only": "tokens only", "diverged": "diverged", "unverifiable": "unverifiable",
}  # fmt: skip
_MEANING: dict[Kind, str] = {
    "exact": "every token and every bit of the logits",
    "tokens_only": "every token; the bits of the logits differ, or were not recorded",
    "diverged": "replay differs from the stored reply",
    "unverifiable": "some replies cannot be made again here; --ckpt PATH names their checkpoint",
}
_SHOWN = 60


def turn_lines(verdict: Verdict) -> Iterator[str]:
    """Yield the line of one verdict, and indented ones that explain it."""
    detail = _where(verdict.divergence) if verdict.divergence else verdict.why
    yield f"turn {verdict.turn:<4} {WORDS[verdict.kind]:<12} {detail}".rstrip()
    yield from _details(verdict)


def _details(verdict: Verdict) -> Iterator[str]:
    if verdict.kind != "exact":
        for difference in verdict.differing:
            yield f"          {_difference(difference)}"
    for remark in verdict.remarks:
        yield f"          {remark}"


def report_lines(found: Replay) -> Iterator[str]:
    """Yield the whole report: the verdict on each turn, then the overall one.

    Turns in a row that are unverifiable for the same reason share their lines.
    """
    for _, group in itertools.groupby(found.verdicts, _same_lines):
        verdicts = list(group)
        if len(verdicts) == 1:
            yield from turn_lines(verdicts[0])
        else:
            first = verdicts[0]
            yield f"turns {first.turn} to {verdicts[-1].turn}: {WORDS[first.kind]} {first.why}"
            yield from _details(first)
    yield from summary_lines(found)


def _same_lines(verdict: Verdict) -> object:
    return (verdict.why, verdict.differing, verdict.remarks) if verdict.why else verdict.turn


def summary_lines(found: Replay) -> Iterator[str]:
    """Yield the overall verdict, and the session's digest."""
    for fault in found.faults:
        yield f"changed after it was recorded: {fault.where}: expected {fault.expected}, found {fault.got}"
    count, tokens = len(found.verdicts), found.tokens
    counted = f"{count} turn{'' if count == 1 else 's'}, {tokens:,} token{'' if tokens == 1 else 's'}"
    yield f"{WORDS[found.kind]}: {counted}; {_MEANING[found.kind]}"
    yield f"digest {found.digest}"


def turn_value(verdict: Verdict) -> dict[str, object]:
    """Return one verdict as JSON values; `differing` are parts of the fingerprint and the environment."""
    value = asdict(verdict)
    return {
        "turn": value.pop("turn"),
        "position": value.pop("position"),
        "verdict": value.pop("kind"),
        **value,
    }


def summary_value(found: Replay) -> dict[str, object]:
    """Return the verdict on all turns as JSON values."""
    return {
        "session": found.session.name,
        "verdict": found.kind,
        "turns": len(found.verdicts),
        "tokens": found.tokens,
        "digest": found.digest,
        "faults": [asdict(fault) for fault in found.faults],
    }


def _where(divergence: Divergence) -> str:
    expected, got = (_quoted(each.text) for each in (divergence.expected, divergence.got))
    match divergence.place:
        case "prompt":
            return f"its prompt differs: recorded {expected}, now {got}"
        case "token":
            expected, got = (
                f"{_quoted(each.text)} {list(each.token_ids)}" if each.token_ids else "its end"
                for each in (divergence.expected, divergence.got)
            )
            margin = "" if divergence.margin is None else f" (margin {divergence.margin:.2g})"
            return f"at token {divergence.index}: expected {expected}, got {got}{margin}"
        case "ending":
            return f"at its end, after token {divergence.index}: expected {expected}, got {got}"
        case _:
            return f"in its stored text, at character {divergence.index}: expected {expected}, got {got}"


def _difference(difference: Difference) -> str:
    return f"{difference.part}: recorded {_short(difference.recorded)}, now {_short(difference.found)}"


def _short(value: object) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
