"""Mutation testing: change one thing in a module, run its tests, and list the changes that no test notices.

    python tools/mutate.py engine              # the area's sample: always the same mutants
    python tools/mutate.py sessions --sample 400 --seed 7
    python tools/mutate.py engine --only engine/batch.py --sample 1000

Works on a copy of the committed tree, one mutant after the other, and stops at the first test that fails.
Exit status 1 if a mutant survives. A survivor is either a missing test or a change without an effect.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import random
import shlex
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _typeshed import TraceFunction

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
}


@dataclass(frozen=True)
class Area:
    """Modules with the tests that must notice their changes: cheap ones, without programs to start."""

    modules: str
    tests: str
    sample: int


AREAS = {
    "engine": Area(
        "engine/*.py",
        "tests/engine --ignore tests/engine/test_packaging.py --ignore tests/engine/test_docs.py"
        " -k 'not million'",
        sample=80,
    ),
    "sessions": Area(
        "sessions/*.py",
        "tests/sessions --ignore tests/sessions/test_durability.py --ignore tests/sessions/test_power_cut.py"
        " --ignore tests/sessions/test_bench.py -k 'not postgresql and not killed and not damaged_cell'",
        sample=80,
    ),
    "formats": Area("sessions/formats/*.py", "tests/formats", sample=40),
    "sampling": Area(
        "niels_gpt/sampling/*.py",
        "tests/sampling tests/model/test_sampling.py --ignore tests/sampling/test_transformers.py"
        " --ignore tests/sampling/test_beam.py",
        sample=30,
    ),
    "replay": Area(
        "niels_gpt/replay/*.py",
        "tests/replay --ignore tests/replay/test_campaign.py -k 'not processor'",
        sample=50,
    ),
    "train": Area(
        "niels_gpt/train/*.py",
        "tests/training --ignore tests/training/test_distributed.py --ignore tests/training/test_bench.py"
        " -k 'not killed and not by_heart'",
        sample=60,
    ),
}
# Parts of a program that no test should have to hold.
SKIPPED = (ast.JoinedStr, ast.Raise, ast.AnnAssign, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """A changed source, with the place and the two texts for the report."""

    path: Path
    line: int
    last_line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.before} -> {self.after}"


def mutants(path: Path, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    for node in _candidates(ast.parse(source)):
        before = ast.get_source_segment(source, node) or ""
        for after in dict.fromkeys(_changes(node)):
            if after != ast.unparse(node):
                changed = _replaced(source, node, after)
                yield Mutant(
                    path,
                    node.lineno,
                    node.end_lineno or node.lineno,
                    " ".join(before.split()),
                    after,
                    changed,
                )


def _candidates(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, SKIPPED) or _is_type_checking(child) or _is_docstring(child):
            continue
        if isinstance(child, ast.expr | ast.stmt):
            yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for statement in child.body:  # neither decorators nor annotations
                yield from _candidates(ast.Module([statement], []))
        else:
            yield from _candidates(child)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Yield the texts that may stand in the place of a node."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield ast.unparse(ast.Compare(node.left, [SWAPS[type(op)]()], node.comparators))  # type: ignore[list-item]
        case ast.BoolOp(op=op):
            yield f"({ast.unparse(ast.BoolOp(SWAPS[type(op)](), node.values))})"  # type: ignore[arg-type]
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield f"({ast.unparse(ast.BinOp(node.left, SWAPS[type(op)](), node.right))})"  # type: ignore[arg-type]
        case ast.UnaryOp(op=ast.Not()):
            yield f"({ast.unparse(node.operand)})"
        case ast.Constant(value=int(value) | float(value)):
            yield repr(not value if isinstance(value, bool) else value + 1)
        case ast.Return(value=ast.expr()):
            yield "return None"
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign():
            yield "pass"
        case ast.Break():
            yield "continue"
        case ast.IfExp():
            yield f"({ast.unparse(node.body)})"
            yield f"({ast.unparse(node.orelse)})"


def _replaced(source: str, node: ast.expr | ast.stmt, text: str) -> str:
    lines = source.encode().splitlines(keepends=True)
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    head = b"".join(lines[:first]) + lines[first][: node.col_offset]
    tail = lines[last][node.end_col_offset :] + b"".join(lines[last + 1 :])
    return (head + text.encode() + tail).decode()


class _Recorder:
    """pytest plugin: record which tests run which lines of the modules, and which libraries they import."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = {str(path) for path in files}
        self._test = ""
        self.reached: defaultdict[str, set[str]] = defaultdict(set)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._test = item.nodeid
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type] - typeshed's signature is too narrow

    def _enter(self, frame: FrameType, _event: str, _value: object) -> TraceFunction | None:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, _event: str, _value: object) -> TraceFunction:
        self.reached[f"{frame.f_code.co_filename}:{frame.f_lineno}"].add(self._test)
        return self._line


class _Order:
    """pytest plugin: run the tests that reach the changed line before all others."""

    def __init__(self, first: set[str]) -> None:
        self._first = first

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.nodeid not in self._first)


class _Tests:
    """The tests of some modules in a copy of the tree, run in forks of this process.

    The libraries that the tests need are imported once, before the forks.
    """

    def __init__(self, tree: Path, arguments: Sequence[str], seconds: float) -> None:
        self._tree = tree
        self._arguments = [
            *("-q", "-x", "-n0", "--timeout=15", "-p", "no:cacheprovider"),
            *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
            *arguments,
        ]
        self._seconds = seconds
        self._reached: dict[str, list[str]] = {}

    def record(self, modules: Sequence[Path]) -> bool:
        """Run the tests on the unchanged modules; return whether they pass, and print why they do not."""
        report, output = self._tree / "reached.json", self._tree / "output.txt"
        recorder = _Recorder([self._tree / path for path in modules])

        def run() -> int:
            status = pytest.main([*self._arguments, "--timeout=150"], [recorder])  # tracing is slow
            reached = {line: sorted(tests) for line, tests in recorder.reached.items()}
            libraries = {
                name.partition(".")[0]
                for name, module in sys.modules.items()
                if "site-packages" in str(getattr(module, "__file__", None))
            }
            report.write_text(json.dumps([reached, sorted(libraries)]))
            return status

        if not self._forked(run, 10 * self._seconds, output=output):
            print(output.read_text("utf-8", "replace"), file=sys.stderr)
            return False
        self._reached, libraries = json.loads(report.read_text())
        for name in libraries:
            importlib.import_module(name)
        return True

    def pass_with(self, mutant: Mutant) -> bool:
        """Return whether all tests pass, those that reach the changed lines first."""
        changed = self._tree / mutant.path
        lines = range(mutant.line, mutant.last_line + 1)
        first = {test for line in lines for test in self._reached.get(f"{changed}:{line}", [])}
        original = changed.read_text("utf-8")
        changed.write_text(mutant.source, "utf-8")
        try:
            return self._forked(lambda: pytest.main(self._arguments, [_Order(first)]), self._seconds)
        finally:
            changed.write_text(original, "utf-8")

    def _forked(self, run: Callable[[], int], seconds: float, *, output: Path = Path(os.devnull)) -> bool:
        process = multiprocessing.get_context("fork").Process(target=self._child, args=(run, output))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode == 0

    def _child(self, run: Callable[[], int], output: Path) -> None:
        written = os.open(output, os.O_RDWR | os.O_CREAT)
        os.chdir(self._tree)
        os.environ.update(PYTHONPATH=str(self._tree), PYTHONDONTWRITEBYTECODE="1")
        sys.path.insert(0, str(self._tree))
        sys.dont_write_bytecode = True
        for descriptor in (0, 1, 2):
            os.dup2(written, descriptor)
        os._exit(run())  # threads that a mutant left behind end too


def main(argv: Sequence[str] | None = None) -> int:
    """Run the mutants; 0 if all are noticed."""
    parser = argparse.ArgumentParser(description="List changes of modules that no test notices.")
    parser.add_argument("area", choices=AREAS)
    parser.add_argument("--only", nargs="+", type=Path, metavar="MODULE", help="of the area's modules")
    parser.add_argument("--sample", type=int, metavar="N", help="try N of them (default: as the area says)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="for one mutant (default: %(default)s)")
    flags = parser.parse_args(argv)
    area = AREAS[flags.area]
    modules = flags.only or sorted(Path().glob(area.modules))
    chosen = [mutant for path in modules for mutant in mutants(path, path.read_text("utf-8"))]
    random.Random(flags.seed).shuffle(chosen)
    chosen = chosen[: flags.sample or area.sample]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", "HEAD"], capture_output=True, check=True).stdout  # noqa: S607
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)  # noqa: S603, S607
        tests = _Tests(Path(folder), shlex.split(area.tests), flags.seconds)
        if not tests.record(modules):
            print("the tests fail, or take too long, without any change", file=sys.stderr)
            return 2
        for number, mutant in enumerate(chosen, 1):
            if tests.pass_with(mutant):
                survivors += 1
                print(f"survives: {mutant}", flush=True)
            print(f"{number} of {len(chosen)}, {survivors} survive", file=sys.stderr, flush=True)
    print(f"{len(chosen)} mutants, {survivors} survive")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
