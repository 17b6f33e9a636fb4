"""What a replay found, as lines for a person and as values for a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from niels_gpt.replay.replay import Replay
from niels_gpt.replay.verdict import Difference, Divergence, Kind, Verdict

WORDS: dict[Kind, str] = {
    "exact": "exact", "tokens_only": "tokens only", "diverged": "diverged", "unverifiable": "unverifiable",
}  # fmt: skip
_MEANING: dict[Kind, str] = {
    "exact": "every token and every bit of the logits",
    "tokens_only": "every token; the logits have other bits, or were not recorded",
    "diverged": "what is stored is not what comes out again",
    "unverifiable": "some replies cannot be made again here; --ckpt names the checkpoint that gave them",
}
_SHOWN = 60


def turn_lines(verdict: Verdict) -> Iterator[str]:
    """Give the line of one verdict, and indented ones that explain it."""
    detail = _where(verdict.divergence) if verdict.divergence else verdict.why
    yield f"turn {verdict.turn:<4} {WORDS[verdict.kind]:<12} {detail}".rstrip()
    if verdict.kind != "exact":
        for difference in verdict.differing:
            yield f"          {_difference(difference)}"
    for remark in verdict.remarks:
        yield f"          {remark}"


def summary_lines(found: Replay, *, tokens: int) -> Iterator[str]:
    """Give the verdict on all turns, and the session's digest."""
    for fault in found.faults:
        yield f"changed after it was recorded: {fault.where}: expected {fault.expected}, found {fault.got}"
    count = len(found.verdicts)
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


def summary_value(found: Replay, *, tokens: int) -> dict[str, object]:
    """Return the verdict on all turns as JSON values."""
    return {
        "session": found.session.name,
        "verdict": found.kind,
        "turns": len(found.verdicts),
        "tokens": tokens,
        "digest": found.digest,
        "faults": [asdict(fault) for fault in found.faults],
    }


def _where(divergence: Divergence) -> str:
    expected, got = (_quoted(each.text) for each in (divergence.expected, divergence.got))
    match divergence.place:
        case "prompt":
            return f"its prompt is another one: recorded {expected}, now {got}"
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
