"""Compare a recorded reply with the same reply made again: one verdict, and the place where they part.

The parts of a fingerprint that decide (weights, config, tokenizer, template) and the environment that only
explains (kernel version, processor, ...) are compared first, so that a verdict can name what differs. These
are pure values; the text of a token comes from a function that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["exact", "tokens_only", "diverged", "unverifiable"]
Place = Literal["prompt", "token", "ending", "text"]

DECIDING = ("weights", "config", "tokenizer", "template")
"""Parts of a fingerprint. Without the first three there is nothing to compare; another template is seen in
the prompts that it makes."""
INDISPENSABLE = frozenset({"weights", "config", "tokenizer"})
EXPLAINING = (
    "kernel_version", "context_rule", "path", "weights", "device", "dtype", "threads",
    "torch", "numba", "python", "cpu",
)  # fmt: skip
_WORST_FIRST: tuple[Kind, ...] = ("diverged", "unverifiable", "tokens_only")
_SHOWN = 8  # tokens of a passage: enough to recognise it


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is known of one reply, recorded or made again. Hashes are hex; None where none was recorded."""

    prompt_hash: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    logits_hash: str | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One part that differs now. `decides` tells parts that change replies from those that explain."""

    part: str
    recorded: object
    found: object
    decides: bool


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A few tokens of a reply from a place on, and what they say; both empty where the reply has ended."""

    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where two accounts part.

    `place` "prompt": different prompt ids (passages hold hashes); "token": at `index` of the reply's tokens;
    "ending": the same tokens, a different finish reason; "text": the same tokens, a different text, at
    `index` of its characters. `margin` is the distance of that draw from the nearest other token, where that
    is known.
    """

    place: Place
    index: int
    expected: Passage
    got: Passage
    margin: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a replay found for one turn.

    `turn` counts from 1 along what was replayed, `position` is the reply's place on its path of messages.
    `why` is set when unverifiable, `divergence` when diverged, `remarks` whenever there is more to say.
    """

    kind: Kind
    turn: int
    position: int
    differing: tuple[Difference, ...] = ()
    divergence: Divergence | None = None
    why: str = ""
    remarks: tuple[str, ...] = ()


def differences(
    recorded_parts: Mapping[str, str],
    found_parts: Mapping[str, str],
    recorded_environment: Mapping[str, object],
    found_environment: Mapping[str, object],
) -> tuple[Difference, ...]:
    """Return the parts that differ, deciding ones first; a part that only one side names differs too."""
    pairs = [(part, recorded_parts.get(part), found_parts.get(part), True) for part in DECIDING]
    pairs += [
        (part, recorded_environment.get(part), found_environment.get(part), False) for part in EXPLAINING
    ]
    return tuple(
        Difference(part=part, recorded=recorded, found=found, decides=decides)
        for part, recorded, found, decides in pairs
        if recorded != found
    )


def compare(
    recorded: Account,
    found: Account,
    *,
    turn: int,
    position: int,
    decode: Callable[[Sequence[int]], str],
    differing: Iterable[Difference] = (),
) -> Verdict:
    """Return the verdict on one turn that could be made again.

    Without a recorded hash of the logits, equal tokens are all that can be shown.
    """
    differing = tuple(differing)
    divergence = _divergence(recorded, found, decode)
    if divergence is not None:
        return Verdict(
            kind="diverged", turn=turn, position=position, differing=differing, divergence=divergence
        )
    exact = recorded.logits_hash is not None and recorded.logits_hash == found.logits_hash
    return Verdict(
        kind="exact" if exact else "tokens_only", turn=turn, position=position, differing=differing
    )


def overall(verdicts: Iterable[Verdict]) -> Kind:
    """Return the overall verdict: the worst of any turn; exact if there are none."""
    kinds = {verdict.kind for verdict in verdicts}
    for kind in _WORST_FIRST:
        if kind in kinds:
            return kind
    return "exact"


def _divergence(
    recorded: Account, found: Account, decode: Callable[[Sequence[int]], str]
) -> Divergence | None:
    if recorded.prompt_hash != found.prompt_hash:
        return Divergence(
            place="prompt",
            index=0,
            expected=Passage(token_ids=(), text=recorded.prompt_hash),
            got=Passage(token_ids=(), text=found.prompt_hash),
        )
    if recorded.token_ids != found.token_ids:
        index = first_difference(recorded.token_ids, found.token_ids)
        expected, got = (each.token_ids[index : index + _SHOWN] for each in (recorded, found))
        return Divergence(
            place="token",
            index=index,
            expected=Passage(token_ids=expected, text=decode(expected)),
            got=Passage(token_ids=got, text=decode(got)),
        )
    if recorded.finish_reason != found.finish_reason:
        return Divergence(
            place="ending",
            index=len(found.token_ids),
            expected=Passage(token_ids=(), text=recorded.finish_reason),
            got=Passage(token_ids=(), text=found.finish_reason),
        )
    if recorded.text != found.text:
        index = first_difference(recorded.text, found.text)
        end = index + 5 * _SHOWN
        return Divergence(
            place="text",
            index=index,
            expected=Passage(token_ids=(), text=recorded.text[index:end]),
            got=Passage(token_ids=(), text=found.text[index:end]),
        )
    return None


def first_difference(a: Sequence[object], b: Sequence[object]) -> int:
    """Return the first index at which two sequences differ, or the length of the shorter one."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))
