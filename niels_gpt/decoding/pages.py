"""Pages of keys and values: which are free, which sequences hold, and which hold known beginnings.

A page has the keys and values of `PAGE` consecutive positions. They depend on the tokens up to there and on
nothing else, bit for bit, so a full page can be shared by all sequences that begin with the same tokens. Full
pages are kept in a tree by their tokens after their sequence has ended; the least recently used go first when
pages are needed. This module only counts: the memory is the driver's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

PAGE = 16
"""Positions of a page."""

Tokens = tuple[int, ...]


@dataclass(eq=False)
class _Node:
    """A full page: its tokens, after those of its parent."""

    page: int
    tokens: Tokens
    parent: _Node | None
    children: dict[Tokens, _Node] = field(default_factory=dict)
    users: int = 0


@dataclass(eq=False)
class PageList:
    """The pages of one sequence, in order of its positions."""

    pages: list[int]
    shared: list[_Node]
    """The nodes of the first pages; those of the others are the sequence's own."""
    own: set[int]
    """Pages that are in no node."""


class PagePool:
    """All pages of a GPU."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._root = _Node(-1, (), None)
        self._idle: OrderedDict[_Node, None] = OrderedDict()  # no users and no children, the oldest first
        self._unused = 0  # nodes without users

    @property
    def available(self) -> int:
        """Pages that a sequence can have: the free ones and those that only wait to be used again."""
        return len(self._free) + self._unused

    def take(self, ids: Sequence[int], count: int) -> PageList | None:
        """Return `count` pages for a sequence, or None if there are too few.

        The first ones are shared with sequences that began like `ids`; all of these are full.
        """
        found = self._known([], ids)[:count]
        unused = sum(node.users == 0 for node in found)
        if count - len(found) > self.available - unused:
            return None
        for node in found:
            self._use(node)
        own = [self._page() for _ in range(count - len(found))]
        return PageList([node.page for node in found] + own, found, set(own))

    def adopt(self, held: PageList, ids: Sequence[int]) -> int:
        """Replace pages by those that hold `ids` already; return how many of the first are shared now."""
        for node in self._known(held.shared, ids):
            number = len(held.shared)
            mine = held.pages[number]
            self._use(node)
            held.shared.append(node)
            held.pages[number] = node.page
            held.own.discard(mine)
            self._free.append(mine)
        return len(held.shared)

    def _known(self, shared: list[_Node], ids: Sequence[int]) -> list[_Node]:
        """Return the nodes that hold the next full pages of `ids`, after the shared ones."""
        found: list[_Node] = []
        node = shared[-1] if shared else self._root
        for first in range(PAGE * len(shared), len(ids) - PAGE + 1, PAGE):
            child = node.children.get(tuple(ids[first : first + PAGE]))
            if child is None:
                break
            found.append(child)
            node = child
        return found

    def publish(self, held: PageList, ids: Sequence[int]) -> None:
        """Offer a sequence's full pages to others; `ids` are the tokens that it has read for certain."""
        node = held.shared[-1] if held.shared else self._root
        for number in range(len(held.shared), len(ids) // PAGE):
            tokens = tuple(ids[number * PAGE : (number + 1) * PAGE])
            child = node.children.get(tokens)
            if child is None:
                child = _Node(held.pages[number], tokens, node)
                held.own.discard(child.page)
                node.children[tokens] = child
                self._idle.pop(node, None)
                self._unused += 1
            self._use(child)
            held.shared.append(child)
            node = child

    def release(self, held: PageList) -> None:
        """Take back a sequence's pages; those that were published are kept while there is room."""
        for node in reversed(held.shared):
            node.users -= 1
            if node.users == 0:
                self._unused += 1
                if not node.children:
                    self._idle[node] = None
        self._free += held.own
        held.pages, held.shared, held.own = [], [], set()

    def _use(self, node: _Node) -> None:
        self._unused -= node.users == 0
        self._idle.pop(node, None)
        node.users += 1

    def _page(self) -> int:
        if not self._free:
            node, _ = self._idle.popitem(last=False)
            parent = node.parent
            if parent is not None:
                del parent.children[node.tokens]
                if parent is not self._root and not parent.children and parent.users == 0:
                    self._idle[parent] = None
                    self._idle.move_to_end(parent, last=False)
            self._unused -= 1
            self._free.append(node.page)
        return self._free.pop()
