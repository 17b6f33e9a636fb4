"""Audit exported sessions: make their replies again, and account for the verdicts.

The verdicts of an audit are lines of JSON. Its summary depends on nothing but these lines, so that shards,
resumed runs and one process come to the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niels_gpt.conversation.options import ChatOptions
from niels_gpt.replay.environment import recorded_environment
from niels_gpt.replay.find_checkpoint import Load, Unfit, find_model
from niels_gpt.replay.reconstruct import Question, archived_questions
from niels_gpt.replay.replay import judged
from niels_gpt.replay.report import turn_value
from niels_gpt.replay.turn_verdict import unverifiable
from niels_gpt.replay.verdict import Verdict
from sessions import Checkpoint, SessionArchive
from sessions.formats import ImportRefused, Limits
from sessions.formats.json_reader import line_fields
from sessions.formats.native import read_session

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend

FAILED_KINDS = ("damaged", "diverged")
"""Verdicts that show a reply to be wrong."""
CONFIDENCE = 0.95
_FIRST = 10  # failures that a summary quotes
_OPEN_MODELS = 2
_SAMPLE = b"niels-gpt audit sample 1\0"

Lines = Sequence[tuple[int, bytes]]
"""The lines of one session, each with its number in the file."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One session of a group: its replies to judge, or why it cannot be read."""

    name: str
    archive: SessionArchive | None
    questions: tuple[Question, ...]
    damage: str = ""


class Auditor:
    """Judges sessions, with the models that made their replies; those stay open from group to group."""

    def __init__(
        self,
        options: ChatOptions,
        load: Load,
        *,
        batch: int,
        is_chosen: Callable[[str], bool] = lambda _digest: True,
    ) -> None:
        """Prepare an audit.

        Args:
            options: Which checkpoint to use, if one is given, and how to compute.
            load: Loads a checkpoint.
            batch: How many replies are made side by side.
            is_chosen: Says of a reply's digest whether to judge it.

        """
        self._options, self._load, self._batch, self._is_chosen = options, load, batch, is_chosen
        self._models: dict[tuple[str, str | None], Backend | Unfit] = {}

    def verdicts(self, sessions: Sequence[Lines], *, name: str) -> list[list[dict[str, object]]]:
        """Return the verdicts on the chosen replies of each session, as JSON values.

        Args:
            sessions: The lines of each session.
            name: The name of the file, for messages about damaged lines.

        """
        asked = [self._read(lines, name) for lines in sessions]
        found = asyncio.run(self._judged(asked))
        return [
            [{"session": each.name, "verdict": "damaged", "why": each.damage}]
            if each.archive is None
            else [_value(each, question, found[id(question)]) for question in each.questions]
            for each in asked
        ]

    def close(self) -> None:
        """Close the models."""
        for model in self._models.values():
            if not isinstance(model, Unfit):
                model.close()
        self._models.clear()

    def _read(self, lines: Lines, name: str) -> _Asked:
        limits = Limits()
        fields = (
            line_fields(line, where=f"{name}, line {number}", limits=limits)
            for number, line in lines
            if line.strip()
        )
        try:
            archive = read_session(fields)
        except ImportRefused as error:
            return _Asked(
                name=_name_in(lines), archive=None, questions=(), damage=f"{error.place}: {error.what}"
            )
        questions = tuple(
            each
            for each in archived_questions(archive)
            if self._is_chosen(each.recorded.generation.digest or "")
        )
        return _Asked(name=archive.session.name, archive=archive, questions=questions)

    async def _judged(self, sessions: Iterable[_Asked]) -> dict[int, Verdict]:
        groups: dict[tuple[str, str | None], list[tuple[Question, Checkpoint]]] = {}
        for each in sessions:
            checkpoints = {each.id: each for each in each.archive.checkpoints} if each.archive else {}
            for question in each.questions:
                generation = question.recorded.generation
                checkpoint = checkpoints[generation.checkpoint_id]
                key = (checkpoint.fingerprint, recorded_environment(generation).weights)
                groups.setdefault(key, []).append((question, checkpoint))
        found: dict[int, Verdict] = {}
        for key, group in groups.items():
            questions, checkpoint = [question for question, _ in group], group[0][1]
            model = self._model(key, checkpoint, questions[0])
            if isinstance(model, Unfit):
                verdicts = [unverifiable(each, model.why, model.differing) for each in questions]
            else:
                verdicts = await judged(
                    questions, model, checkpoint.parts, batch=self._batch, on_done=lambda _: None
                )
            found |= {id(each): verdict for each, verdict in zip(questions, verdicts, strict=True)}
        return found

    def _model(
        self, key: tuple[str, str | None], checkpoint: Checkpoint, question: Question
    ) -> Backend | Unfit:
        """Return the model for a group; the one that was used longest ago is closed for it."""
        model = self._models.pop(key, None)
        if model is None:
            open_models = [key for key, each in self._models.items() if not isinstance(each, Unfit)]
            if len(open_models) >= _OPEN_MODELS:
                oldest = self._models.pop(open_models[0])
                assert not isinstance(oldest, Unfit)  # noqa: S101 - filtered above
                oldest.close()
            environment = recorded_environment(question.recorded.generation)
            model = find_model(checkpoint, environment, self._options, self._load)
        self._models[key] = model
        return model


def _name_in(lines: Lines) -> str:
    """Return the name that a damaged session's first line gives, or nothing."""
    number, line = lines[0]
    try:
        name = line_fields(line, where=f"line {number}", limits=Limits()).values.get("name")
    except ImportRefused:
        return ""
    return name if isinstance(name, str) else ""


def _value(asked: _Asked, question: Question, verdict: Verdict) -> dict[str, object]:
    value = {key: each for key, each in turn_value(verdict).items() if each not in (None, "", (), [])}
    kind = value.pop("verdict")
    if kind == "exact":
        value = {"turn": value["turn"], "position": value["position"]}
    digest = question.recorded.generation.digest
    return {"session": asked.name, "verdict": kind, **value, "digest": digest}


def sampled(digests: Iterable[str], count: int, *, key: str) -> Callable[[str], bool]:
    """Choose replies by a hash of their digest: the same ones in every shard and run.

    Args:
        digests: The digests of all replies.
        count: How many to choose.
        key: A text of the auditor's, so that nobody can know the choice while making the archive.

    Returns:
        A function that says of a digest whether it is chosen.

    """
    prefix = _SAMPLE + key.encode() + b"\0"

    def rank(digest: str) -> bytes:
        return hashlib.sha256(prefix + digest.encode()).digest()

    chosen = heapq.nsmallest(count, map(rank, digests))
    most = chosen[-1] if chosen else b""
    return lambda digest: rank(digest) <= most


class Summary:
    """The counts, first failures and Merkle root of the lines of an audit.

    The root is that of RFC 6962: leaves are SHA-256 of 0x00 and the line without its end, nodes SHA-256 of
    0x01 and both children.
    """

    def __init__(self) -> None:
        self._verdicts: Counter[str] = Counter()
        self._first: list[dict[str, Any]] = []
        self._subtrees: list[tuple[int, bytes]] = []  # heights and roots of the full trees, from the left

    @property
    def verdicts(self) -> Counter[str]:
        """The number of lines of each verdict."""
        return self._verdicts

    def add(self, line: bytes) -> None:
        """Add one line."""
        value = json.loads(line)
        self._verdicts[value["verdict"]] += 1
        if value["verdict"] != "exact" and len(self._first) < _FIRST:
            self._first.append(value)
        height, root = 0, hashlib.sha256(b"\0" + line.rstrip(b"\n")).digest()
        while self._subtrees and self._subtrees[-1][0] == height:
            root = _node(self._subtrees.pop()[1], root)
            height += 1
        self._subtrees.append((height, root))

    @property
    def root(self) -> str:
        """The Merkle root of all lines, in hex."""
        if not self._subtrees:
            return hashlib.sha256(b"").hexdigest()
        root = self._subtrees[-1][1]
        for _, left in reversed(self._subtrees[:-1]):
            root = _node(left, root)
        return root.hex()

    def value(self, *, sample: int | None) -> dict[str, object]:
        """Return the summary as JSON values; `sample` is how many replies were to be chosen, None for all."""
        count = self._verdicts.total()
        value: dict[str, object] = {
            "summary": 1,
            "replies": count,
            "verdicts": dict(sorted(self._verdicts.items())),
            "merkle_root": self.root,
            "first": self._first,
        }
        if sample is not None:
            wrong = sum(self._verdicts[kind] for kind in FAILED_KINDS)
            checked = count - self._verdicts["unverifiable"]
            value |= {
                "sample": sample,
                "wrong_at_most": upper_bound(wrong, checked),
                "confidence": CONFIDENCE,
            }
        return value


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def upper_bound(wrong: int, checked: int, *, confidence: float = CONFIDENCE) -> float:
    """Return the bound on the share of wrong replies in a population, from a random sample of it.

    It is the exact one-sided bound of Clopper and Pearson: the share at which so few wrong replies or fewer
    have the probability 1 - `confidence`.

    Args:
        wrong: Replies of the sample that are wrong.
        checked: Replies of the sample.
        confidence: The probability with which the bound holds.

    """
    if wrong >= checked:
        return 1.0
    low, high = wrong / checked, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(wrong, checked, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(wrong: int, checked: int, share: float) -> float:
    """Return the binomial probability of at most `wrong` of `checked`, for 0 < share < 1."""
    if not 0 < share < 1:
        return 1.0 if share <= 0 else 0.0
    terms: Iterator[float] = (
        math.lgamma(checked + 1)
        - math.lgamma(k + 1)
        - math.lgamma(checked - k + 1)
        + k * math.log(share)
        + (checked - k) * math.log1p(-share)
        for k in range(wrong + 1)
    )
    return math.fsum(map(math.exp, terms))
