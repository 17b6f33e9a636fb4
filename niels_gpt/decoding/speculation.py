"""Speculative decoding: draft the next tokens of a reply from text that it may repeat.

The last tokens of a reply are looked up in the conversation and in examples of the reply, such as the one
that is retried. What followed them there is a draft, which the decoder reads ahead in one step. Every token
is still drawn from its own row of logits with its own number from the reply's generator. A draft therefore
changes the time that a reply takes, but no bit of it.

Reading a row more costs less than a step of its own, but not nothing. So a draft is as long as pays: each
length is weighed by how often such drafts were right and by how long steps took. Both are measured as the
reply runs, the first also for drafts that were only proposed: a token that was drawn alone says whether the
draft would have been right. No draft is ever tried at a loss to learn that.
"""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST_MATCH, LONGEST_MATCH = 2, 16  # tokens that are compared
CANDIDATES = 8  # latest places that are compared, of those with the same last two tokens
LENGTHS = (1, 2, 3, 5, 7, 11, 15, 23, 31)
"""The lengths of a draft that are considered."""
WORTH = 1.05  # expected speed, as a multiple of plain decoding, from which a draft is read
BREAK = -1  # stands between texts; no token

# How often the next token is right at first, by the least length of the match.
PRIORS = {SHORTEST_MATCH: 0.25, 3: 0.35, 5: 0.5, 8: 0.65, LONGEST_MATCH: 0.8}
PRIOR_WEIGHT, MEMORY = 3.0, 0.97  # tokens that a prior counts for; share of the past that the next one keeps
ROW_SHARE = 0.4  # what a further row costs until it was measured, as a share of a step with one
RECENT = 0.125  # weight of the latest time in an average


class PromptLookup:
    """Finds where the end of a sequence occurred before, in itself or in examples of what follows its prompt.

    Positions are indexed when the first draft is asked for, and then as tokens arrive.
    """

    def __init__(self, prompt: Sequence[int], examples: Sequence[Sequence[int]]) -> None:
        self._tokens: list[int] = []
        end = prompt[-LONGEST_MATCH:]
        for example in examples:
            self._tokens += [BREAK, *end, *example]
        self._tokens.append(BREAK)
        self._own = len(self._tokens)
        self._latest: dict[tuple[int, int], int] = {}
        self._before = [0, 0]
        """By place: the one before it that follows the same two tokens; 0 for none."""

    def longest(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """Return the tokens that followed the longest match with the end of `ids`, and the match's length.

        Of equal matches the latest counts. `ids` continues those of the last call. The length is 0, and
        there are no tokens, where nothing matches.
        """
        tokens = self._tokens
        tokens += ids[len(tokens) - self._own :]
        for place in range(len(self._before), len(tokens)):
            pair = tokens[place - 2], tokens[place - 1]
            self._before.append(self._latest.get(pair, 0))
            if tokens[place] != BREAK:
                self._latest[pair] = place
        best, length = 0, SHORTEST_MATCH - 1
        place = self._latest.get((tokens[-2], tokens[-1]), 0) if BREAK not in tokens[-2:] else 0
        for _ in range(CANDIDATES):
            if place == 0:
                break
            same = self._match(place, length)
            if same > length:
                best, length = place, same
            place = self._before[place]
        if best == 0:
            return [], 0
        found = tokens[best : best + LENGTHS[-1]]
        return found[: found.index(BREAK)] if BREAK in found else found, length

    def _match(self, place: int, length: int) -> int:
        """Return how many tokens before `place` equal the last ones; any number up to `length` if no more."""
        tokens, end = self._tokens, len(self._tokens)
        if tokens[place - length : place] != tokens[end - length :]:
            return 0
        while length < LONGEST_MATCH and length < place:
            token = tokens[place - length - 1]
            if token == BREAK or token != tokens[end - length - 1]:
                break
            length += 1
        return length


class StepCosts:
    """What a step costs with one row, in seconds, and what a further row adds, as a share of that."""

    def __init__(self) -> None:
        self.row = ROW_SHARE
        """What each further row adds."""
        self._alone: float | None = None

    def record(self, rows: int, steps: int, seconds: float) -> None:
        """Record how long `steps` steps of `rows` rows took together. An interruption counts little."""
        seconds /= steps
        if rows == 1:
            if self._alone is None:
                self._alone = seconds
            self._alone += RECENT * (min(seconds, 2 * self._alone) - self._alone)
        elif self._alone is not None:
            share = (seconds / self._alone - 1) / (rows - 1)
            self.row += RECENT * (min(max(share, 0.0), 2 * self.row + 0.01) - self.row)


class Speculation:
    """The drafts of one reply."""

    def __init__(
        self,
        prompt: Sequence[int],
        examples: Sequence[Sequence[int]],
        stop_ids: frozenset[int],
        costs: StepCosts,
    ) -> None:
        self._lookup = PromptLookup(prompt, examples)
        self._stop_ids = stop_ids
        self._costs = costs
        self._right = {kind: prior * PRIOR_WEIGHT for kind, prior in PRIORS.items()}
        self._seen = dict.fromkeys(PRIORS, PRIOR_WEIGHT)
        self._proposed: list[int] = []
        self._kind = SHORTEST_MATCH

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """Return the tokens to read ahead after `ids`, at most `most`; none where that would not pay."""
        self._proposed, match = self._lookup.longest(ids)
        if not self._proposed or most < 1:
            return []
        self._kind = max(kind for kind in PRIORS if kind <= match)
        # After the token that ends the reply nothing is drawn.
        ends = [place for place, token_id in enumerate(self._proposed) if token_id in self._stop_ids]
        return self._proposed[: self._length(min([len(self._proposed), most, *ends[:1]]))]

    def observe(self, drawn: Sequence[int]) -> None:
        """Learn from the tokens that were drawn since, whether they were drafted or not."""
        kind = self._kind
        for token_id, proposed in zip(drawn, self._proposed, strict=False):
            self._right[kind] = MEMORY * self._right[kind] + (token_id == proposed)
            self._seen[kind] = MEMORY * self._seen[kind] + 1
            if token_id != proposed:
                self._proposed = []
                return
        self._proposed = self._proposed[len(drawn) :]

    def _length(self, most: int) -> int:
        """Return the length of a draft, at most `most`, with the best expected speed; 0 for none."""
        chance = self._right[self._kind] / self._seen[self._kind]
        best, speed = 0, WORTH
        expected = likely = 1.0
        for length in range(1, most + 1):
            likely *= chance
            expected += likely
            each = expected / (1 + self._costs.row * length)
            if each > speed and (length in LENGTHS or length == most):
                best, speed = length, each
        return best
