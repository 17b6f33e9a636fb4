"""Write the primer: the dialogues that the shipped model learns to speak from.

    python tools/generate_primer.py --out data/primer.txt --seed 42 --n-per-category 1000 --shuffle

writes the `data/primer.txt` of this repository, byte for byte; `make train` makes more of the same kind with
another seed. A category is one topic file of
`data/primer/`; a larger one gets more dialogues, each opened by the entry of it that was asked least so
far. No wording is used again before all of its entry's wordings have been used. A dialogue moves on to other
topics, asks follow-ups right after the entry that they belong to, and has one system prompt. Entries that
share words (`contrast`) often follow each other, because a small model otherwise learns the words of one and
the answer of the other. No question has the words of a held-out one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primer_combinators import roughen, vary, vary_follow_up
from primer_wordings import FORMS, fill, wording

DATA_DIR = Path(__file__).resolve().parents[1] / "data"
HELD_OUT = ("heldout.jsonl", "dev.jsonl")
DIALOGUE_DELIM = "\n\n<dialogue>\n\n"

DEFAULT_SYSTEM = (
    "you are a tiny chatbot on niels’ website. answer in third person about niels. "
    "do not invent personal facts; if you don’t know, say you don’t know."
)
# The model must answer under any prompt that a user sets, and under none.
OTHER_SYSTEMS = (
    "you are niels-gpt.",
    "you are a helpful assistant.",
    "answer briefly.",
    "be kind and short.",
    "you are a small language model. say so when you don't know.",
    "You answer questions about niels-gpt.",
    "talk about niels in third person.",
    "you help people with a chat program.",
    "be honest.",
    "You are a friendly guide for newcomers.",
)
DEFAULT_SYSTEM_SHARE = 0.75
NO_SYSTEM_SHARE = 0.10

# Long dialogues too: a model does not follow a conversation to positions where it has never seen one.
TURN_COUNTS, TURN_WEIGHTS = (1, 2, 3, 4, 6, 8, 10), (15, 20, 20, 15, 10, 10, 10)
FOLLOW_UP_CHANCE = 0.75  # that an entry which has follow-ups is followed by one, and that one by another
GREETING_CHANCE = 0.08  # that small talk comes first
# How often a kind is strayed into, relative to facts: declining must not crowd out knowing.
STRAY_WEIGHTS = {"fact": 1.0, "smalltalk": 0.4, "unknown": 3.0, "private": 0.4}
# An entry with more phrasings than this is asked more often, so that none of them is left out.
USUAL_PHRASINGS = 60
MOST_BREADTH = 2.0  # for a fact; what is not known has no bounds
# Of a fact's questions: those that most people would ask, those written by hand, and the other made ones.
COMMON_SHARE, WRITTEN_SHARE, MADE_SHARE = 0.25, 0.5, 0.25
FOLLOW_UP_WEIGHT = 0.35  # how much more often a follow-up makes its entry come up
CONTRAST_CHANCE = 0.35  # that an entry which shares words with another is followed by it
CONTRAST_WEIGHT, MOST_CONTRASTS = 0.25, 2  # how much more often such an entry comes up
STRAY_CANDIDATES = 8

_REWRITES: dict[str, Callable[[str, random.Random], str]] = {"smalltalk": roughen}


class PrimerError(ValueError):
    """A topic file cannot be used; the message names the file or entry and what is wrong with it."""


class Deck:
    """Deals its cards in random order, all of them once before any again, and counts what it dealt.

    A card may be in it several times; its length is that of its distinct cards.
    """

    def __init__(self, cards: Sequence[str]) -> None:
        self._cards = list(cards)
        self._distinct = len(set(cards))
        self._left: list[str] = []
        self.dealt = 0

    def __len__(self) -> int:
        return self._distinct

    def deal(self, rng: random.Random) -> str:
        """Return the next card."""
        if not self._left:
            self._left = rng.sample(self._cards, len(self._cards))
        self.dealt += 1
        return self._left.pop()


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """A question that makes sense only behind its entry."""

    id: str
    questions: Deck
    answers: Deck


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One fact, or one thing that is not known: many questions, one or two answers."""

    id: str
    topic: str
    kind: str
    questions: Deck
    answers: Deck
    follow_ups: tuple[FollowUp, ...]
    contrast: tuple[str, ...]

    def asked(self) -> float:
        """How often it was asked, relative to its wordings, follow-ups and contrasts."""
        breadth = max(1.0, len(self.questions) / USUAL_PHRASINGS)
        if self.kind == "fact":
            breadth = min(MOST_BREADTH, breadth)
        breadth *= 1 + FOLLOW_UP_WEIGHT * len(self.follow_ups)
        return self.questions.dealt / (
            breadth * (1 + CONTRAST_WEIGHT * min(MOST_CONTRASTS, len(self.contrast)))
        )

    def strayed_into(self) -> float:
        """How often it was asked, relative to how often its kind is to be strayed into."""
        return self.asked() / STRAY_WEIGHTS[self.kind]


def read_topics(data_dir: Path = DATA_DIR) -> list[dict[str, Any]]:
    """Read every topic file in `data_dir/primer`, in the order of their names, as it is written.

    Returns:
        The entries of all files, each with its `topic`.

    Raises:
        PrimerError: The folder has no topics, or a file has another form.
    """
    raw_entries: list[dict[str, Any]] = []
    for path in sorted((data_dir / "primer").glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        try:
            raw_entries += [{**raw, "topic": content["topic"]} for raw in content["entries"]]
        except (KeyError, TypeError) as error:
            raise PrimerError(f"{path}: not a topic file ({error!r}); compare it with usage.json") from error
    if not raw_entries:
        raise PrimerError(f"no topic files in {str(data_dir / 'primer')!r}; expected *.json there")
    return raw_entries


def load_entries(data_dir: Path = DATA_DIR) -> list[Entry]:
    """Read every topic file in `data_dir/primer` and expand its entries into their wordings.

    Raises:
        PrimerError: The folder has no topics, a file has another form, or an entry has an unknown kind or
            form, no answer, or rests on a fact that `public_facts.json` does not state.
    """
    facts = {fact["id"] for fact in json.loads((data_dir / "public_facts.json").read_text("utf-8"))}
    raw_entries = read_topics(data_dir)
    for raw in raw_entries:
        _check(raw, facts)
    return make_entries(fill(raw_entries))


def make_entries(raw_entries: Sequence[dict[str, Any]]) -> list[Entry]:
    """Return entries of which nothing was asked yet, from entries with all of their wordings."""
    contrasts = _contrasts(raw_entries)
    return [
        Entry(
            id=raw["id"],
            topic=raw["topic"],
            kind=raw["kind"],
            questions=Deck(_weighted(raw)),
            answers=Deck(raw["answers"]),
            follow_ups=tuple(
                FollowUp(id=follow["id"], questions=Deck(_weighted(follow)), answers=Deck(follow["answers"]))
                for follow in raw["follow_ups"]
            ),
            contrast=contrasts[raw["id"]],
        )
        for raw in raw_entries
    ]


def _weighted(raw: dict[str, Any]) -> list[str]:
    """Return a fact's or a follow-up's questions, repeated so that each way of asking has its share."""
    questions, common, written = raw["questions"], raw.get("common", []), raw["written"]
    if raw.get("kind", "fact") != "fact":
        return questions
    special = {*common, *written}
    made = [question for question in questions if question not in special]
    parts = ((common, COMMON_SHARE), (written, WRITTEN_SHARE), (made, MADE_SHARE))
    whole = max(len(part) / share for part, share in parts)
    return [question for part, share in parts if part for question in part * round(whole * share / len(part))]


def _check(raw: dict[str, Any], facts: set[str]) -> None:
    try:
        name, kind, form, stated = raw["id"], raw["kind"], raw.get("form", "fact"), raw.get("facts", [])
        exchanges = [raw, *raw.get("follow_ups", [])]
        silent = [exchange["id"] for exchange in exchanges if not exchange["answers"]]
    except (KeyError, TypeError) as error:
        raise PrimerError(f"entry {raw.get('id')!r} is incomplete ({error!r}); see usage.json") from error
    unstated = [fact for fact in stated if fact not in facts]
    if unstated:
        raise PrimerError(f"entry {name!r} rests on {unstated!r}, which public_facts.json does not state")
    if kind not in STRAY_WEIGHTS:
        raise PrimerError(f"entry {name!r} is of kind {kind!r}; expected one of {list(STRAY_WEIGHTS)}")
    if form not in FORMS:
        raise PrimerError(f"entry {name!r} is of form {form!r}; expected one of {list(FORMS)}")
    if silent:
        raise PrimerError(f"{silent!r} without an answer; expected one or two answers")


def _contrasts(raw_entries: Sequence[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Return for every entry the entries that it is to be told apart from, both ways."""
    contrasts: dict[str, dict[str, None]] = {raw["id"]: {} for raw in raw_entries}
    for raw in raw_entries:
        for other in raw.get("contrast", []):
            if other in contrasts:
                contrasts[raw["id"]][other] = None
                contrasts[other][raw["id"]] = None
    return {name: tuple(others) for name, others in contrasts.items()}


class DialogueWriter:
    """Puts entries into dialogues. One writer, one seed, one sequence of dialogues."""

    def __init__(self, entries: Sequence[Entry], rng: random.Random, held_out: frozenset[str]) -> None:
        self._entries = list(entries)
        self._by_id = {entry.id: entry for entry in entries}
        self._held_out = held_out
        self._greetings = [entry for entry in entries if entry.kind == "smalltalk"]
        self._rng = rng

    def write(self, opener: Entry) -> str:
        """Return one dialogue about `opener` and whatever else its turns have room for."""
        room = self._rng.choices(TURN_COUNTS, TURN_WEIGHTS)[0]
        lines = self._system_lines()
        entry, told = opener, {opener.id}
        if room > 1 and self._greetings and self._rng.random() < GREETING_CHANCE:
            lines += self._ask(self._rng.choice(self._greetings))
            room -= 1
        while True:
            lines += self._ask(entry)
            room -= 1
            for follow_up in self._follow_ups(entry)[:room]:
                lines += self._lines(follow_up.questions, follow_up.answers, vary_follow_up)
                room -= 1
            if room == 0:
                return "".join(f"{line}\n" for line in lines)
            entry = self._contrast(entry, told) or self._stray(told)
            told.add(entry.id)

    def _system_lines(self) -> list[str]:
        draw = self._rng.random()
        if draw < DEFAULT_SYSTEM_SHARE:
            return [f"system: {DEFAULT_SYSTEM}"]
        if draw < DEFAULT_SYSTEM_SHARE + NO_SYSTEM_SHARE:
            return []
        return [f"system: {self._rng.choice(OTHER_SYSTEMS)}"]

    def _ask(self, entry: Entry) -> list[str]:
        return self._lines(entry.questions, entry.answers, _REWRITES.get(entry.kind, vary))

    def _lines(
        self, questions: Deck, answers: Deck, rewrite: Callable[[str, random.Random], str]
    ) -> list[str]:
        question = rewrite(questions.deal(self._rng), self._rng)
        while wording(question) in self._held_out:
            question = rewrite(questions.deal(self._rng), self._rng)
        return [f"user: {question}", f"assistant: {answers.deal(self._rng)}"]

    def _follow_ups(self, entry: Entry) -> list[FollowUp]:
        """Choose the follow-ups asked now, the least asked first."""
        chosen: list[FollowUp] = []
        for follow_up in sorted(entry.follow_ups, key=lambda follow_up: follow_up.questions.dealt):
            if self._rng.random() >= FOLLOW_UP_CHANCE:
                break
            chosen.append(follow_up)
        return chosen

    def _contrast(self, entry: Entry, told: set[str]) -> Entry | None:
        """Choose now and then, of the entries that share words with `entry`, the one asked least so far."""
        others = [self._by_id[name] for name in entry.contrast if name not in told]
        if not others or self._rng.random() >= CONTRAST_CHANCE:
            return None
        return min(others, key=Entry.strayed_into)

    def _stray(self, told: set[str]) -> Entry:
        """Choose the next entry: of a few, the one that was asked least so far."""
        candidates = self._rng.sample(self._entries, min(STRAY_CANDIDATES, len(self._entries)))
        fresh = [entry for entry in candidates if entry.id not in told] or candidates
        return min(fresh, key=Entry.strayed_into)


def held_out_wordings(data_dir: Path = DATA_DIR) -> frozenset[str]:
    """Return how the held-out and development dialogues word the questions that they judge."""
    return frozenset(
        wording(json.loads(line)["messages"][-1]["content"])
        for name in HELD_OUT
        for line in (data_dir / name).read_text("utf-8").splitlines()
    )


def generate(
    entries: Sequence[Entry],
    *,
    seed: int,
    n_per_category: int,
    shuffle: bool,
    held_out: frozenset[str] = frozenset(),
) -> str:
    """Return the primer's text: `n_per_category` dialogues a topic on average; same arguments, same text.

    No question has a wording of `held_out`.
    """
    if n_per_category < 1:
        raise PrimerError(f"--n-per-category is {n_per_category!r}; expected at least 1")
    rng = random.Random(seed)
    writer = DialogueWriter(entries, rng, held_out)
    dialogues: list[str] = []
    topics = sorted({entry.topic for entry in entries})
    categories = [[entry for entry in entries if entry.topic == topic] for topic in topics]
    for category, count in zip(categories, _shares(categories, n_per_category), strict=True):
        dialogues += [writer.write(min(category, key=Entry.asked)) for _ in range(count)]
    if shuffle:
        rng.shuffle(dialogues)
    return DIALOGUE_DELIM.join(dialogues)


def _shares(categories: Sequence[Sequence[Entry]], n_per_category: int) -> list[int]:
    """Return how many dialogues each category opens: `n_per_category` on average.

    They go by the square root of the number of entries. By the number itself a small category would hardly
    be asked; with equal shares its entries would be asked several times as often as the others.
    """
    weights = [math.sqrt(len(category)) for category in categories]
    ends = [
        round(n_per_category * len(categories) * so_far / sum(weights))
        for so_far in itertools.accumulate(weights, initial=0.0)
    ]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the primer named by the command line; 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(description="Write primer dialogues from data/primer/*.json.")
    parser.add_argument("--out", type=Path, default=DATA_DIR / "primer.generated.txt", help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text (default: %(default)s)")
    parser.add_argument(
        "--n-per-category", type=int, default=30, help="dialogues a topic on average (default: %(default)s)"
    )
    parser.add_argument("--shuffle", action="store_true", help="mix the topics instead of one after another")
    args = parser.parse_args(argv)
    try:
        text = generate(
            load_entries(),
            seed=args.seed,
            n_per_category=args.n_per_category,
            shuffle=args.shuffle,
            held_out=held_out_wordings(),
        )
        args.out.write_text(text, "utf-8", newline="\n")
    except (OSError, ValueError) as error:
        print(f"generate_primer: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {text.count(DIALOGUE_DELIM) + 1} dialogues, {len(text.encode()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
