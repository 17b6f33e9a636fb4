"""Expand a topic entry into questions: what it is about, put into the ways of asking that fit its form.

An entry may name what it is about (`names`), what a user wants to do with it (`goals`, verb phrases without
"to"), when something happens (`cases`, clauses) and what has a place (`places`). Each is put into a list of
intents. The first intents of a list are the common ones, and every entry has all of them; of the others it
gets a seeded sample, so that no entry drowns the rest. Follow-ups such as `entry.why` get the questions of
their suffix. Questions written by hand are always kept.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

# How many of the first intents of each list an entry always has, and how many further wordings.
COMMON_INTENTS = 4
# How many of its questions stand for an entry without intents: they are written in the order of use.
FIRST_WRITTEN = 6
SAMPLED_WORDINGS = 130

FORMS = ("command", "flag", "key", "subcommand", "idea", "page", "fact")

_NAMES = (
    "what is {}", "{}?", "tell me about {}", "explain {}", "{}", "what's {}", "what about {}", "and {}?",
    "can you explain {}", "please explain {}", "describe {}", "what do you know about {}", "{} please",
    "say something about {}", "i have a question about {}", "what should i know about {}",
    "i don't understand {}", "i don't know what {} is", "can you tell me about {}", "{} explained",
    "information about {}", "i'd like to know about {}", "help with {}", "what is {} again",
    "what exactly is {}", "{}, what is that", "do you know {}", "could you explain {} to me",
)  # fmt: skip
_TYPED_NAMES = (
    "what does {} do", "what is {} for", "how do i use {}", "what does {} mean", "when do i use {}",
    "what is {} good for", "why would i use {}", "{} does what", "what can i do with {}", "meaning of {}",
    "what is the use of {}", "use of {}", "what is the purpose of {}", "how does one use {}",
    "when would i need {}", "what does {} do exactly", "i saw {} in the help, what does it do",
    "is {} useful", "what do i get from {}", "explain what {} does", "tell me what {} does",
    "somebody told me to use {}, what does it do", "what will {} do", "why is there a {}",
)  # fmt: skip
_NAMES_BY_FORM: dict[str, tuple[str, ...]] = {
    "command": (
        "what does {} do", "what happens when i type {}", "what does the {} command do", "the {} command?",
        "what does typing {} do", "what if i type {}", "what do i type behind {}", "{} in the chat",
        "what happens if i enter {}", "what kind of command is {}",
    ),
    "flag": (
        "what does {} do", "what does the flag {} do", "what does the {} flag do", "the {} flag?",
        "what happens if i give {}", "what does the option {} mean", "what happens when i pass {}",
        "what value does {} take", "should i pass {}", "the option {}",
    ),
    "key": (
        "what does {} do", "what happens when i press {}", "what does the {} key do", "the {} key?",
        "what does pressing {} do", "what if i press {}", "what happens if i hit {}",
        "i pressed {}, what now", "is there something on {}", "when do i press {}",
    ),
    "subcommand": (
        "what does {} do", "what happens when i run {}", "what does the command {} do", "the command {}?",
        "what does {} print", "what if i run {}", "what do i see when i run {}", "when do i run {}",
        "should i run {}", "i ran {}, what did it do",
    ),
    "page": (
        "what is in {}", "what does {} describe", "what is {} about", "what can i read in {}",
        "what does the page {} say", "should i read {}", "what do i find in {}", "contents of {}",
        "when should i read {}", "who should read {}", "what is written in {}", "the page {}?",
        "is {} worth reading", "what does {} explain", "what do i learn from {}", "what is {} for",
    ),
    "idea": (
        "what does {} mean", "how does {} work", "define {}", "what do you mean by {}", "meaning of {}",
        "what is meant by {}", "explain {} in simple words", "explain {} to me",
        "give me a definition of {}", "i've never heard of {}", "what is this thing called {}",
        "what is {} in a language model", "what is the idea behind {}", "{} in one sentence",
        "explain {} like i'm five", "how would you define {}", "how would you explain {}",
        "in short, what is {}", "definition of {}", "i keep reading about {}, what is it",
        "{} for beginners", "what does the word {} mean", "what does {} mean here", "what is {} good for",
        "what is {} for", "what does {} do", "somebody mentioned {}, what is that",
        "i am new to this, what is {}",
    ),
    "fact": ("what can you say about {}", "what is there to know about {}", "i want to know about {}"),
}  # fmt: skip
_NOT_TYPED = {"page", "idea", "fact"}
_MARKED = {"command": "/", "flag": "-"}

_GOALS = (
    "how do i {}", "how can i {}", "can i {}", "is there a way to {}", "how to {}", "i want to {}", "{}",
    "how would i {}", "how could i {}", "how should i {}", "is it possible to {}", "tell me how to {}",
    "i need to {}", "i'd like to {}", "any way to {}", "{}, how?", "{}?", "show me how to {}",
    "help me {}", "how does one {}", "i'm trying to {}", "what is the way to {}", "i don't know how to {}",
    "can you {}", "what do i have to do to {}", "what must i do to {}", "what is the easiest way to {}",
    "how do you {}", "explain how to {}", "i would like to {}, how", "am i able to {}", "could i {}",
    "trying to {}", "what should i do if i want to {}", "i can't find out how to {}",
    "how on earth do i {}", "i wish to {}", "what if i want to {}", "please tell me how i can {}",
    "i have to {}, how do i do that",
)  # fmt: skip
_GOALS_BY_FORM: dict[str, tuple[str, ...]] = {
    "command": (
        "which command lets me {}", "what do i type to {}", "what is the command to {}",
        "is there a command to {}", "which command do i need to {}", "what should i type to {}",
        "with which command can i {}", "what command do i use to {}", "command to {}",
        "how do i {} in the chat", "what do i enter to {}", "what can i type to {}",
        "which command is for when i want to {}", "name the command to {}", "in the chat, how do i {}",
        "while chatting, how can i {}",
    ),
    "flag": (
        "which flag lets me {}", "which flag do i use to {}", "is there a flag to {}",
        "which option lets me {}", "what is the flag to {}", "flag to {}", "with which flag can i {}",
        "what flag do i need to {}", "is there an option to {}", "what option do i give to {}",
        "name the flag to {}", "what do i pass to {}",
    ),
    "key": (
        "which key do i press to {}", "what key lets me {}", "what do i press to {}",
        "is there a key to {}", "which keys do i need to {}", "is there a shortcut to {}", "key to {}",
        "shortcut to {}", "with which key can i {}", "keyboard shortcut to {}", "what do i hit to {}",
        "on my keyboard, how do i {}",
    ),
    "subcommand": (
        "which command lets me {}", "what do i run to {}", "what is the command to {}",
        "which subcommand lets me {}", "is there a command to {}", "what do i type in the shell to {}",
        "command to {}", "which command do i run to {}", "from the shell, how do i {}",
        "what should i run to {}", "name the command to {}", "with which command can i {}",
    ),
    "page": (
        "where can i read how to {}", "which page tells me how to {}", "where is it written how to {}",
        "which document explains how to {}", "what should i read to {}", "is it documented how to {}",
    ),
    "idea": (),
    "fact": (),
}  # fmt: skip

_CASES = (
    "what happens if {}", "what if {}", "what happens when {}", "and if {}", "if {}, what happens", "{}?",
    "what does it do if {}", "suppose {}, what happens then", "what happens in case {}",
    "{}, what happens", "what will happen if {}", "if {}, what then", "what do i get if {}",
    "when {}, what happens", "does anything happen if {}", "what happens once {}", "and when {}",
    "what would happen if {}", "what does niels-gpt do if {}", "what does the program do when {}",
    "what do i see if {}", "let's say {}, what then", "what should i expect if {}",
    "tell me what happens if {}", "so what if {}",
)  # fmt: skip

_PLACES = (
    "where {is} {}", "where do i find {}", "where {is} {} stored", "where {is} {} kept",
    "where {is} {} saved", "where can i find {}", "where {does} {} live", "where does it keep {}",
    "in which folder {is} {}", "where does niels-gpt keep {}", "which folder holds {}",
    "where does the program store {}", "which directory has {}", "what is the location of {}",
    "path of {}", "{}, where?", "where did {} go", "where can i look at {}", "tell me where {} {is}",
    "where does niels-gpt save {}", "location of {}", "in what folder {is} {} kept",
    "where on my disk {is} {}", "i'm looking for {}, where {is} {it}", "where should i look for {}",
    "what is the path to {}", "i can't find {}", "where have you put {}", "under which path {is} {}",
    "where {is} {} to be found",
)  # fmt: skip

_PAIRS = (
    "what is the difference between {} and {}", "{} or {}", "{} vs {}", "how does {} differ from {}",
    "is {} the same as {}", "should i use {} or {}", "difference between {} and {}", "compare {} and {}",
    "which is better, {} or {}", "when do i use {} and when {}", "do {} and {} do the same",
    "what's the difference between {} and {}", "how do {} and {} differ", "why is there {} and {}",
    "{} versus {}", "i mix up {} and {}", "explain the difference between {} and {}", "isn't {} just {}",
    "what distinguishes {} from {}", "are {} and {} different", "{} and {}: what is the difference",
    "how is {} different from {}", "i don't see the difference between {} and {}",
)  # fmt: skip

# What may be asked about any entry, by the suffix of the follow-up's id.
FOLLOW_UPS: dict[str, tuple[str, ...]] = {
    "why": (
        "why", "why?", "why is that", "why so", "how come", "for what reason", "what's the reason",
        "but why", "why does it do that", "and why", "why is it like that", "what is the reason for that",
        "why though", "why would i want that", "what's the point", "why do i need that",
        "what is the point of that", "why is that so", "can you say why", "what is that good for",
        "explain why", "what is it good for", "why would anyone do that", "what do i gain from that",
        "is there a reason for that", "why that", "why does that matter", "i don't see why",
        "what is the benefit", "why is that useful",
    ),
    "example": (
        "an example", "example?", "give me an example", "for example?", "can you give an example",
        "show me one", "such as?", "like what", "what would that look like", "an example please",
        "do you have an example", "show me an example", "please give an example",
        "could you show me an example", "for instance?", "how would i type that", "i need an example",
        "one example please", "what does that look like", "give an example", "can i see an example",
        "let me see an example", "e.g.?", "how does that look", "show me how that looks",
        "and an example?", "any example", "example please", "what would i write",
    ),
    "default": (
        "what is its default", "what's the default", "default?", "and the default", "the default value?",
        "what is it by default", "what is the default value", "which value does it have by default",
        "how is it set by default", "what if i don't set it", "what is it normally", "by default?",
        "what is it set to at first", "what is the standard value", "and if i leave it alone",
        "what does it start with", "its default please", "is there a default", "what is the usual value",
        "what value is it at the start", "what is it when i don't touch it", "and by default?",
        "what does it default to", "what would it be without me setting it", "which default does it have",
    ),
    "off": (
        "how do i turn it off", "can i turn it off", "how do i disable it", "turn it off",
        "how do i stop that", "how do i switch it off", "can i switch that off", "and off again?",
        "how to get rid of it", "off?", "what if i don't want that", "how do i turn that off",
        "can it be disabled", "can i disable that", "i don't want that", "how do i deactivate it",
        "how can i turn this off", "is there a way to turn it off", "and how do i turn it off again",
        "how do i go back to normal", "make it stop", "how do i end that", "how do i get rid of that",
        "can that be turned off", "i want it off", "how to disable this",
    ),
    "simpler": (
        "simpler please", "simpler", "explain it more simply", "in plain words", "i don't get it",
        "i do not understand", "what does that mean", "huh?", "can you say that in easier words", "eli5",
        "too complicated", "in other words?", "that is too hard for me", "easier please", "say it simply",
        "can you put that more simply", "explain that to a child", "i didn't get that",
        "once more, but simpler", "say that in simple words", "more simply?",
        "what does that mean in plain english", "in simple terms?", "please explain it differently",
        "i still don't understand", "what?", "i'm lost", "could you simplify that",
        "explain like i'm five", "you lost me",
    ),
    "more": (
        "tell me more", "more please", "go on", "more details", "can you say more", "and then?",
        "what else", "more about that", "give me more detail", "is there more to it", "anything else",
        "say more", "i want to know more", "more on that please", "please continue",
        "what else should i know", "any more details", "could you go into detail", "can you elaborate",
        "tell me a bit more",
    ),
    "range": (
        "which values can it take", "what values are allowed", "how high can it go", "what's the range",
        "what can i set it to", "what is the highest value", "what is the lowest value", "what is allowed",
        "how low can it go", "what is the maximum", "what is the minimum", "which numbers are allowed",
        "what range does it have", "from what to what", "what are its limits", "which values make sense",
        "what may i give it", "is there a limit", "how far can i go", "what values does it accept",
    ),
    "which": (
        "which one should i use", "which one is better", "which do you recommend", "what should i choose",
        "which one should i take", "what would you recommend", "which is best", "which one do i need",
        "what do you suggest", "which should i pick", "what is a good value", "which value should i use",
        "what is a sensible choice", "which one would you take", "what should i use",
        "what is best for me", "so which one", "help me choose", "which of them", "what is recommended",
    ),
    "where": (
        "where", "where?", "where is that", "where do i find it", "where do i type that",
        "where can i find that", "and where", "where do i see that", "in which place", "where exactly",
        "where would i find that", "where do i put that", "where do i enter that", "where do i look",
        "tell me where", "whereabouts",
    ),
    "how": (
        "how", "how?", "how do i do that", "how does that work", "how exactly", "and how",
        "how can i do that", "how is that done", "how do you do that", "how would i do that",
        "tell me how", "how so", "how does it do that", "what do i have to do for that", "show me how",
        "how do i use it", "what do i type", "what do i do for that", "how is that possible",
        "by what means",
    ),
    "undo": (
        "how do i undo that", "can i undo that", "can i take that back", "how do i get it back", "undo?",
        "can that be undone", "how do i reverse that", "how do i take it back", "and back again?",
        "how do i go back", "what if i change my mind", "is that reversible", "can i get it back",
        "how can i undo it", "what if it was a mistake", "how to revert that", "i did that by mistake",
    ),
}  # fmt: skip

_PLURAL = re.compile(r"^(?!an? |one |this )(?:.* )?[a-z]+(?<![sui])s$")


def fill(raw_entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every entry and follow-up all of its questions, without those that two entries share.

    Args:
        raw_entries: Entries as the topic files hold them, of all topics.

    Returns:
        Copies in which `questions` is complete, `written` has those written by hand and `common` those that
        most people would ask. A question written by hand for one entry is not made for another; a made one
        that fits two is left out of both.
    """
    made = [list(made_questions(entry)) for entry in raw_entries]
    owners: dict[str, set[str]] = {}
    written: set[str] = set()
    for entry, questions in zip(raw_entries, made, strict=True):
        written.update(map(_same, entry.get("questions", [])))
        for question in questions:
            owners.setdefault(_same(question), set()).add(entry["id"])
    complete = [
        _distinct(
            [
                *entry.get("questions", []),
                *(q for q in questions if len(owners[_same(q)]) == 1 and _same(q) not in written),
            ]
        )
        for entry, questions in zip(raw_entries, made, strict=True)
    ]
    return [
        {
            **entry,
            "questions": questions,
            "written": _distinct(entry.get("questions", [])),
            "common": _common(entry, questions),
            "follow_ups": [
                {
                    **follow_up,
                    "questions": _distinct(
                        [
                            *follow_up.get("questions", []),
                            *FOLLOW_UPS.get(follow_up["id"].rpartition(".")[2], ()),
                        ]
                    ),
                    "written": _distinct(follow_up.get("questions", [])),
                }
                for follow_up in entry.get("follow_ups", [])
            ],
        }
        for entry, questions in zip(raw_entries, complete, strict=True)
    ]


def shared_wordings(raw_entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], list[str]]:
    """Return, by the ids of the entries, the goals, names, cases and places that entries have in common."""
    owners: dict[str, set[str]] = {}
    for entry in raw_entries:
        for field in ("names", "goals", "cases", "places"):
            for text in entry.get(field, []):
                owners.setdefault(wording(text), set()).add(entry["id"])
    shared: dict[tuple[str, ...], list[str]] = {}
    for text, ids in owners.items():
        if len(ids) > 1:
            shared.setdefault(tuple(sorted(ids)), []).append(text)
    return shared


def made_questions(entry: Mapping[str, Any]) -> Iterator[str]:
    """Return the common wordings of an entry and a sample of the others, seeded by its id."""
    common, others = _ways_of_asking(entry)
    yield from common
    yield from random.Random(entry["id"]).sample(others, min(SAMPLED_WORDINGS, len(others)))


def _common(entry: Mapping[str, Any], questions: list[str]) -> list[str]:
    """Return those of an entry's `questions` that most people would ask; without intents, the first ones."""
    usual = set(map(_same, _ways_of_asking(entry)[0]))
    return [question for question in questions if _same(question) in usual] or questions[:FIRST_WRITTEN]


def _ways_of_asking(entry: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what an entry's common intents and its other intents make of its names, goals and so on."""
    form = entry.get("form", "fact")
    general = _NAMES if form in _NOT_TYPED else (*_NAMES, *_TYPED_NAMES)
    own_goals = _GOALS_BY_FORM[form]
    # Only what begins like a command or flag can be typed; "the temperature" is its name in prose.
    typed = [name for name in entry.get("names", []) if form not in _MARKED or name.startswith(_MARKED[form])]
    prose = [name for name in entry.get("names", []) if name not in typed]
    lists = (
        (typed, (*_NAMES[:2], *_NAMES_BY_FORM[form], *general)),
        (prose, general),
        (entry.get("goals", []), (*_GOALS[:2], *own_goals[:2], *_GOALS[2:], *own_goals[2:])),
        (entry.get("cases", []), _CASES),
        (entry.get("places", []), _PLACES),
    )
    pairs = [(one, other) for pair in entry.get("pairs", []) for one, other in (pair, pair[::-1])]
    common: list[str] = []
    others: list[str] = []
    for slots, intents in lists:
        for at, intent in enumerate(dict.fromkeys(intents)):
            (common if at < COMMON_INTENTS else others).extend(_put(intent, slot) for slot in slots)
    for at, intent in enumerate(_PAIRS):
        (common if at < COMMON_INTENTS else others).extend(intent.format(*pair) for pair in pairs)
    return common, others


def wording(question: str) -> str:
    """Return a question without case and punctuation, apart from what belongs to commands and flags."""
    return " ".join(re.findall(r"[\w/'-]+", question.lower())) or question


def _put(intent: str, slot: str) -> str:
    plural = bool(_PLURAL.match(slot))
    asked = intent.replace("{is}", "are" if plural else "is").replace("{does}", "do" if plural else "does")
    asked = asked.replace("{it}", "they" if plural else "it")
    if plural and intent.startswith(("what is {}", "what does {}", "how does {}", "what exactly is {}")):
        asked = asked.replace(" is ", " are ", 1).replace(" does ", " do ", 1)
    return asked.replace("{}", slot)


@cache
def _same(question: str) -> str:
    """Return what two questions have in common that a reader would call the same."""
    return wording(question).replace("'", "")


def _distinct(questions: Iterable[str]) -> list[str]:
    return list({_same(question): question for question in reversed(list(questions))}.values())[::-1]
