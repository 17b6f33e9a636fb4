"""Render chat templates that files bring along, with bounds on time, size and what they can reach.

Jinja's immutable sandbox keeps a template from attributes and from changing what it is given. It does not
bound work, so here a template is rewritten when it is compiled: every loop and macro counts its rounds, and
every operation that can make a text longer checks the result. Filters and methods outside a list do not
exist. The variables and functions are those that Hugging Face gives to a chat template.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from niels_gpt.text.chat_template import ChatTemplateError

LONGEST_TEMPLATE = 200_000
MOST_ROUNDS = 200_000
LARGEST_TEXT = 8_000_000
LARGEST_NUMBER = 1_000_000
LARGEST_VALUE = 100_000
SECONDS = 5.0
TODAY = datetime(2024, 7, 26, tzinfo=UTC)
"""What `strftime_now` tells: always the same day, so that a prompt does not depend on when it is made."""
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "indent", "int", "items",
    "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace",
    "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "unique",
    "upper",
)  # fmt: skip
METHODS = {
    str: (
        "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdigit",
        "isspace",
        "islower", "isupper", "join", "lower", "lstrip", "removeprefix", "removesuffix", "replace", "rfind",
        "rindex", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper",
    ),
    list: ("count", "index"),
    tuple: ("count", "index"),
    dict: ("get", "items", "keys", "values"),
}  # fmt: skip


class _RefusalError(TemplateError):
    """A template called `raise_exception`."""


class _Budget:
    """The work that one rendering may still do."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.rounds, self.deadline = 0, time.monotonic() + SECONDS
        self._weights: dict[int, tuple[int, Any]] = {}

    def weighed(self, value: Any) -> Any:
        """Return a container that was just made, unless it holds too much, its parts' parts included."""
        weight = self._weight(value)
        if weight > LARGEST_VALUE:
            raise SecurityError(f"it makes a value of more than {LARGEST_VALUE} parts")
        self._weights[id(value)] = (weight, value)  # held, so that its number stays its own
        return value

    def _weight(self, value: Any) -> int:
        if not isinstance(value, (list, tuple, dict)):
            return 1
        known = self._weights.get(id(value))
        if known is not None:
            return known[0]
        return 1 + sum(map(self._weight, value.values() if isinstance(value, dict) else value))

    def tick(self) -> str:
        self.rounds += 1
        if self.rounds > MOST_ROUNDS or time.monotonic() > self.deadline:
            raise SecurityError(f"it takes more than {MOST_ROUNDS} rounds or {SECONDS:g} seconds")
        return ""

    def checked(self, value: Any) -> Any:
        if isinstance(value, (str, list, tuple, dict, range)) and len(value) > LARGEST_TEXT:
            raise SecurityError(f"it makes a text of more than {LARGEST_TEXT} characters")
        return value


class _Counting(NodeTransformer):
    """Add a count to every loop and macro, and make every concatenation a checked one."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the library's name
        self.generic_visit(node)
        node.body.insert(0, _tick(node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802 - the library's name
        self.generic_visit(node)
        node.body.insert(0, _tick(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the library's name
        self.generic_visit(node)
        name = nodes.Name("_joined", "load", lineno=node.lineno)
        return nodes.Call(name, node.nodes, [], None, None, lineno=node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802 - the library's name
        return self._weighed(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - the library's name
        return self._weighed(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - the library's name
        return self._weighed(node) if node.ctx == "load" else self.generic_visit(node)

    def _weighed(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        if not any(True for _ in node.iter_child_nodes()):
            return node
        return nodes.Call(
            nodes.Name("_weighed", "load", lineno=node.lineno), [node], [], None, None, lineno=node.lineno
        )


def _tick(lineno: int) -> nodes.Output:
    call = nodes.Call(nodes.Name("_tick", "load", lineno=lineno), [], [], None, None, lineno=lineno)
    return nodes.Output([call], lineno=lineno)


class _Generation(Extension):
    """The tag `{% generation %}`, which marks what a model learns: nothing to do here."""

    tags = {"generation"}  # noqa: RUF012 - the library's name

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands inside the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "%", "**"))

    def __init__(self, budget: _Budget) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self._budget = budget
        known = self.filters
        self.filters = {name: _checked_filter(known[name], budget) for name in FILTERS}
        self.filters["replace"] = self._replace
        self.filters["tojson"] = _tojson
        self.globals.clear()
        self.globals.update(
            namespace=Namespace, range=self._range, dict=self._dict, raise_exception=_refuse,
            strftime_now=_strftime, _tick=budget.tick, _joined=self._joined, _weighed=budget.weighed,
        )  # fmt: skip

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Counting().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        del context
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "+":
            if not numbers:
                self._bounded(_length(left) + _length(right))
            return self._budget.weighed(left + right)
        if operator == "*" and not numbers:
            self._bounded(max(_length(left) * _whole(right), _length(right) * _whole(left)))
            return self._budget.weighed(left * right)
        if not numbers or max(abs(left), abs(right)) > LARGEST_NUMBER:
            raise SecurityError(f"it computes {operator} of something other than small numbers")
        if operator == "*":
            return left * right
        return left % right if operator == "%" else left ** min(right, 8)

    def wrap_str_format(self, value: Any) -> Any:
        """Refuse `str.format`, whose widths make texts of any length."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("it calls the method 'format' of a str")
        return None

    def _bounded(self, size: int) -> None:
        if size > LARGEST_TEXT:
            raise SecurityError(f"it makes a text of more than {LARGEST_TEXT} characters")

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        self._budget.tick()
        values = (*args, *kwargs.values())
        if any(isinstance(value, int) and abs(value) > LARGEST_NUMBER for value in values):
            raise SecurityError("it passes a number of more than a million")
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        for kind, allowed in METHODS.items():
            if isinstance(owner, kind) and name not in allowed:
                raise SecurityError(f"it calls the method {name!r} of a {kind.__name__}")
        if isinstance(owner, str) and name == "replace" and len(args) >= 2:
            return self._replace(owner, *args)
        if isinstance(owner, str) and name == "join" and args:
            parts = [str(part) for part in args[0]]
            self._bounded(sum(map(len, parts)) + len(owner) * len(parts))
            return owner.join(parts)
        return self._budget.checked(super().call(context, obj, *args, **kwargs))

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = str(text), str(old), str(new)
        times = text.count(old) if count is None else min(count, text.count(old))
        self._bounded(len(text) + times * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def _joined(self, *parts: Any) -> str:
        texts = [str(part) for part in parts]
        self._bounded(sum(map(len, texts)))
        return "".join(texts)

    def _dict(self, **values: Any) -> dict[str, Any]:
        return self._budget.weighed(values)

    @staticmethod
    def _range(*bounds: int) -> range:
        found = range(*bounds)
        if len(found) > LARGEST_NUMBER:
            raise SecurityError("it counts further than a million")
        return found


def _checked_filter(function: Callable[..., Any], budget: _Budget) -> Callable[..., Any]:
    """Return a filter that counts as a round and whose result is bounded; it keeps what the library marks."""

    def call(*args: Any, **kwargs: Any) -> Any:
        budget.tick()
        if any(isinstance(value, int) and abs(value) > 1000 for value in (*args[1:], *kwargs.values())):
            raise SecurityError("it passes a large number to a filter")
        return budget.checked(function(*args, **kwargs))

    call.__dict__.update(getattr(function, "__dict__", {}))
    return call


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _refuse(message: str) -> str:
    raise _RefusalError(message)


def _strftime(form: str) -> str:
    if len(form) > 100:
        raise SecurityError("it asks for a date in a very long form")
    return TODAY.strftime(form)


def _tojson(value: Any, indent: int | None = None, **_more: Any) -> str:
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError("it indents JSON by more than 16")
    return json.dumps(value, ensure_ascii=False, indent=indent)


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str, *, tokens: Mapping[str, str]) -> None:
        """Compile it.

        Args:
            source: the template.
            tokens: texts of special tokens by name, as `bos_token`.

        Raises:
            ChatTemplateError: it is not a template that can be used here.

        """
        if len(source) > LONGEST_TEMPLATE:
            raise ChatTemplateError(
                f"the chat template has {len(source)} characters, expected {LONGEST_TEMPLATE}"
            )
        self.source, self._tokens, self._budget = source, dict(tokens), _Budget()
        try:
            self._template = _Environment(self._budget).from_string(source)
        except (TemplateError, RecursionError, SyntaxError, ValueError, OverflowError) as error:
            raise ChatTemplateError(f"the chat template cannot be used: {_line(error)}") from error

    def render(self, messages: Sequence[Mapping[str, str]], *, open_reply: bool) -> str:
        """Return the prompt of messages, and with `open_reply` what precedes a reply.

        Raises:
            ChatTemplateError: the template refuses the messages, or takes too long.

        """
        self._budget.reset()
        size, parts = 0, []
        try:
            for part in self._template.generate(
                messages=[dict(message) for message in messages], tools=None, documents=None,
                add_generation_prompt=open_reply, **self._tokens,
            ):  # fmt: skip
                size += len(part)
                parts.append(part)
                self._budget.checked(range(size))
        except _RefusalError as error:
            raise ChatTemplateError(
                f"the model's chat template refuses this conversation: {_line(error)}"
            ) from error
        except Exception as error:  # a template's own code can raise anything
            raise ChatTemplateError(f"the model's chat template failed: {_line(error)}") from error
        return "".join(parts)


def _line(error: BaseException) -> str:
    return " ".join(f"{error}".split())[:200] or type(error).__name__
