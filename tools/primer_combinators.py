"""Ways of asking the same thing: seeded rewrites of one hand-written question.

A rewrite changes politeness, contractions, synonyms, case, punctuation or a single letter, never the
meaning, and never a command, flag, path, number or name: those words are recognised by `is_code` and pass
through every rewrite untouched. All randomness comes from the caller's `random.Random`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Rewrite = Callable[[str, random.Random], str]

# Anything with a digit or with the punctuation of commands, paths and tags is typed exactly as it is.
_CODE_MARKS = re.compile(r"[-_/.<>|=\\\"+\d]")
_NAMES = frozenset({"niels", "niels'", "niels's", "python", "pip", "make", "printf", "none", "readme"})
# The word behind one of these belongs to a command line: `make chat`, `pip install`, `git clone`.
_COMMAND_HEADS = frozenset({"make", "pip", "git"})
_END_MARKS = "?!.,;:"

_ASKING = frozenset(
    {"how", "what", "where", "which", "who", "why", "when", "what's", "whats", "where's", "who's"}
)

# Any member of a group may stand for any other.
_CONTRACTIONS: tuple[tuple[str, ...], ...] = (
    ("what is", "what's", "whats"),
    ("where is", "where's", "wheres"),
    ("who is", "who's", "whos"),
    ("do not", "don't", "dont"),
    ("does not", "doesn't", "doesnt"),
    ("can not", "can't", "cant"),
    ("is not", "isn't", "isnt"),
    ("i am", "i'm", "im"),
    ("i would like", "i'd like", "id like"),
    ("it is", "it's"),
    ("that is", "that's", "thats"),
    ("you are", "you're"),
)
_SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("how do i", "how can i", "how would i", "how could i", "how should i", "how does one", "how to"),
    ("can i", "could i", "is it possible to", "may i", "am i able to"),
    ("i want to", "i'd like to", "i wish to", "i would like to", "i need to"),
    ("is there a way to", "is there any way to", "does it let me", "am i able to"),
    ("reply", "answer", "response"),
    ("replies", "answers", "responses"),
    ("turn off", "switch off", "disable", "deactivate"),
    ("turn on", "switch on", "enable", "activate"),
    ("needed", "required", "necessary"),
    ("folder", "directory"),
    ("computer", "machine", "laptop", "pc"),
    ("terminal", "shell", "console"),
    ("delete", "erase", "get rid of", "throw away"),
    ("show", "display"),
    ("several", "multiple", "more than one", "many"),
    ("whole", "entire", "complete"),
    ("previous", "earlier"),
    ("damaged", "broken", "corrupted"),
    ("quick", "fast"),
    ("pick", "choose", "select"),
    ("picture", "image"),
    ("wrong", "incorrect"),
    ("begin", "start"),
    ("leave", "quit", "exit"),
    ("settings", "preferences"),
    ("look at", "see", "view"),
    ("continue", "go on with", "carry on with"),
    ("allowed", "permitted"),
    ("random", "arbitrary"),
    ("guess", "suppose"),
    ("happens", "takes place"),
    ("big", "large", "huge"),
    ("little", "small", "tiny"),
    ("every", "each"),
    ("difference", "distinction"),
)
# Only from left to right: the other way round the word may be a verb, or say something else.
_NARROWER: dict[str, tuple[str, ...]] = {
    "change": ("alter", "modify", "adjust"),
    "conversation": ("chat", "dialogue", "talk"),
    "conversations": ("chats", "dialogues", "talks"),
    "describe": ("explain",),
    "explain": ("describe", "clarify"),
    "picks": ("chooses", "selects"),
    "program": ("tool", "software", "app"),
    "store": ("keep", "save"),
    "stored": ("kept", "saved"),
    "remove": ("delete", "take away"),
    "create": ("make",),
    "tell me about": ("explain", "say something about"),
    "tell me": ("let me know",),
    "used for": ("good for",),
    "what do i type": ("what do i enter", "what must i type", "what should i type"),
    "which command": ("what command",),
    "which flag": ("what flag", "which option", "what option"),
    "without": ("with no",),
    "all my": ("all of my", "every one of my"),
    "error": ("failure",),
    "the bot": ("the model", "it"),
    "language model": ("llm", "text model"),
}

_LEAD_INS = (
    "hey, ", "hi, ", "hello, ", "hi! ", "ok, ", "okay ", "so ", "well, ", "um, ", "hmm, ", "and ", "also, ",
    "now ", "btw ", "by the way, ", "quick question: ", "question: ", "one question: ", "one more thing: ",
    "another question: ", "next question: ", "dumb question: ", "just curious, ", "sorry, ", "excuse me, ",
    "please, ", "i'm new here, ", "newbie here, ", "alright, ", "good day, ", "thanks! ", "great, ",
)  # fmt: skip
_LEAD_INS_TO_A_QUESTION = (
    "can you tell me ", "could you tell me ", "please tell me ", "tell me ", "do you know ",
    "i want to know ", "say, ", "i'd like to know ", "i was wondering ", "i wonder ", "would you tell me ",
    "can you explain ", "i need to know ", "any idea ", "remind me ", "can you say ", "explain to me ",
    "let me ask, ",
)  # fmt: skip
_LEAD_INS_TO_A_FOLLOW_UP = (
    "and ", "ok, ", "okay, ", "ok and ", "then ", "so ", "hm, ", "also ", "right, ", "i see. ",
)  # fmt: skip
_TAILS = (
    " please", " thanks", " pls", ", thanks", ", please", " thank you", " exactly", " again", " in short",
    " briefly", " really", " then", " anyway", " for me", " by the way", ", do you know", " actually",
    " here",
)  # fmt: skip
# The keys next to a letter.
_NEIGHBOURS = {
    letter: row[max(at - 1, 0) : at] + row[at + 1 : at + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for at, letter in enumerate(row)
}
_FILLERS = ("actually", "exactly", "just", "really", "basically", "even")
# Words that people leave out when they type in a hurry; a question says the same without them.
_SMALL_WORDS = frozenset(
    ("a", "an", "the", "i", "do", "does", "is", "are", "to", "of", "it", "that", "this", "my", "me", "can",
     "there", "for", "some", "any", "would", "could", "please", "have")
)  # fmt: skip
_VOWELS = "aeiou"


def vary(question: str, rng: random.Random) -> str:
    """Return the question as another person might type it; sometimes as it is."""
    if rng.random() < 0.3:
        return question
    question = _maybe(question, rng, (0.3, contract), (0.4, reword), (0.15, reword), (0.06, add_filler))
    question = _maybe(question, rng, (0.08, leave_out))
    question = _maybe(question, rng, (0.25, add_tail), (0.3, add_lead_in))
    return roughen(question, rng)


def vary_follow_up(question: str, rng: random.Random) -> str:
    """Like `vary`, for a question that leans on the turn before it: nothing may hide that it does."""
    if rng.random() < 0.35:
        return question
    question = _maybe(question, rng, (0.3, contract), (0.25, reword))
    if rng.random() < 0.2 and not question.startswith("and "):
        question = rng.choice(_LEAD_INS_TO_A_FOLLOW_UP) + question
    return roughen(question, rng)


def roughen(question: str, rng: random.Random) -> str:
    """Change only the typing: end mark, slips of single letters, case. Safe for greetings as well."""
    question = end_mark(question, rng)
    return change_case(_maybe(question, rng, (0.2, mistype), (0.12, drop_apostrophes)), rng)


def is_code(word: str) -> bool:
    """Whether a word is a command, flag, path, number, tag or name, which is never rewritten."""
    core = word.strip(_END_MARKS)
    return bool(_CODE_MARKS.search(core)) or core.lower() in _NAMES


def contract(text: str, rng: random.Random) -> str:
    """Swap one contraction for another form of it: `what is`, `what's`, `whats`."""
    return _swap_one(text, _CONTRACTED_PATTERN, _CONTRACTED, rng)


def reword(text: str, rng: random.Random) -> str:
    """Swap one word or phrase for a synonym."""
    return _swap_one(text, _REWORDED_PATTERN, _REWORDED, rng)


def add_lead_in(text: str, rng: random.Random) -> str:
    """Open with a greeting or a polite phrase; `can you tell me` only before a question word."""
    asks = text.split(" ", 1)[0].lower() in _ASKING
    return rng.choice(_LEAD_INS_TO_A_QUESTION if asks and rng.random() < 0.6 else _LEAD_INS) + text


def add_tail(text: str, rng: random.Random) -> str:
    """Close with a polite or idle phrase, before the end mark if there is one."""
    body, mark = _split_end_mark(text)
    return body + rng.choice(_TAILS) + mark


def add_filler(text: str, rng: random.Random) -> str:
    """Put an idle adverb behind the question word."""
    first, _, rest = text.partition(" ")
    if not rest or first.lower() not in _ASKING:
        return text
    return f"{first} {rng.choice(_FILLERS)} {rest}"


def leave_out(text: str, rng: random.Random) -> str:
    """Leave out some of the small words: `how change temperature`."""
    words = text.split(" ")
    kept = [
        word
        for word, fixed in _marked(words)
        if fixed or word.lower() not in _SMALL_WORDS or rng.random() < 0.4
    ]
    return " ".join(kept) if len(kept) > 1 else text


def end_mark(text: str, rng: random.Random) -> str:
    """Drop a question mark, or add one behind a question."""
    body, mark = _split_end_mark(text)
    if mark == "?":
        return body if rng.random() < 0.4 else text
    asks = text.split(" ", 1)[0].lower() in _ASKING
    if not mark and asks and rng.random() < 0.45:
        return text + "?"
    return text


def change_case(text: str, rng: random.Random) -> str:
    """Keep the case, write it like a sentence, or rarely shout."""
    draw = rng.random()
    if draw < 0.62:
        return text
    words = text.split(" ")
    if draw > 0.985:
        return " ".join(word if fixed else word.upper() for word, fixed in _marked(words))
    words = ["I" + word[1:] if re.fullmatch(r"i(['?,!].*)?", word) else word for word in words]
    if not is_code(words[0]):
        words[0] = words[0][:1].upper() + words[0][1:]
    return " ".join(words)


def mistype(text: str, rng: random.Random) -> str:
    """Slip in one word, less often in two or three: letters swapped, lost, doubled, or another one hit."""
    words = text.split(" ")
    longer = [
        i for i, (word, fixed) in enumerate(_marked(words)) if not fixed and re.fullmatch(r"[a-z]{4,}", word)
    ]
    count = rng.choices((1, 2, 3), (6, 3, 1))[0]
    for chosen in rng.sample(longer, min(len(longer), count)):
        words[chosen] = _slip(words[chosen], rng)
    return " ".join(words)


def _slip(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    vowels = [i for i in range(1, len(word)) if word[i] in _VOWELS] or [at]
    vowel = rng.choice(vowels)
    slips = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:-2] + word[-1] + word[-2],
        word[:at] + word[at] + word[at:],
        word[:at] + rng.choice(_NEIGHBOURS[word[at]]) + word[at + 1 :],
        word[:at] + rng.choice(_NEIGHBOURS[word[at]]) + word[at:],
        word[:vowel] + rng.choice(_VOWELS) + word[vowel + 1 :],
    )
    return rng.choices(slips, (6, 6, 2, 3, 2, 1, 3))[0]


def drop_apostrophes(text: str, rng: random.Random) -> str:
    """Leave the apostrophes out: `doesnt`, `im`; never those of a name."""
    del rng
    return " ".join(word if fixed else word.replace("'", "") for word, fixed in _marked(text.split(" ")))


def _maybe(text: str, rng: random.Random, *chances: tuple[float, Rewrite]) -> str:
    for probability, rewrite in chances:
        if rng.random() < probability:
            text = rewrite(text, rng)
    return text


def _marked(words: list[str]) -> list[tuple[str, bool]]:
    """Pair each word with whether it must stay as it is, by itself or as a part of a command line."""
    heads = ["", *(word.lower() for word in words)]
    return [
        (word, is_code(word) or head in _COMMAND_HEADS) for word, head in zip(words, heads[:-1], strict=True)
    ]


def _alternatives(groups: tuple[tuple[str, ...], ...]) -> dict[str, tuple[str, ...]]:
    return {
        phrase: tuple(other for other in group if other != phrase) for group in groups for phrase in group
    }


def _pattern(phrases: dict[str, tuple[str, ...]]) -> re.Pattern[str]:
    """Match any of the phrases, the longest first, as whole words that are no part of code."""
    longest_first = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    return re.compile(r"(?<![\w/.'-])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w/.'-])")


_CONTRACTED = _alternatives(_CONTRACTIONS)
_CONTRACTED_PATTERN = _pattern(_CONTRACTED)
_REWORDED = _alternatives(_SYNONYMS) | _NARROWER
_REWORDED_PATTERN = _pattern(_REWORDED)


def _swap_one(
    text: str, pattern: re.Pattern[str], others: dict[str, tuple[str, ...]], rng: random.Random
) -> str:
    found = [match for match in pattern.finditer(text) if not _behind_command_head(text, match.start())]
    if not found:
        return text
    match = rng.choice(found)
    return text[: match.start()] + rng.choice(others[match.group()]) + text[match.end() :]


def _behind_command_head(text: str, start: int) -> bool:
    before = text[:start].split()
    return bool(before) and before[-1].lower() in _COMMAND_HEADS


def _split_end_mark(text: str) -> tuple[str, str]:
    body = text.rstrip("?!")
    return body, text[len(body) :]
