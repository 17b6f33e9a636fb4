"""Change one thing in a module, run its tests, and list the changes that no test notices.

    python tools/mutation_check.py sessions/turns.py --tests tests/sessions/test_conflicts.py ... [--count N]

Works on a copy of the checkout. Changes are drawn by a seed: comparisons, boolean operators, negations,
numbers, truth values, and statements that are left out.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COPIED = ("engine", "niels_gpt", "sessions", "tests", "bench", "pyproject.toml", "docs", "README.md")
SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
Change = tuple[str, Callable[[], None]]


def changes(tree: ast.Module) -> Iterator[Change]:
    """Yield each change that can be made in a module: what it is, and a function that makes it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            yield from _of_expression(node)
        elif isinstance(node, ast.FunctionDef | ast.If | ast.For | ast.With):
            yield from _of_block(node.body)
            yield from _of_block(getattr(node, "orelse", []))


def _of_expression(node: ast.expr) -> Iterator[Change]:
    where = f"line {node.lineno}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        other = SWAPPED[type(node.ops[0])]
        yield f"{where}: {type(node.ops[0]).__name__} -> {other.__name__}", _setter(node.ops, 0, other())
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{where}: and <-> or", _attribute(node, "op", other_op)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"{where}: not left out", _attribute(node, "op", ast.UAdd())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{where}: {node.value} -> {not node.value}", _attribute(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield f"{where}: {node.value} -> {node.value + 1}", _attribute(node, "value", node.value + 1)


def _of_block(block: list[ast.stmt]) -> Iterator[Change]:
    for at, statement in enumerate(block):
        if isinstance(statement, ast.Assign | ast.AugAssign | ast.Raise) or _is_call(statement):
            text = ast.unparse(statement).splitlines()[0][:60]
            nothing = ast.copy_location(ast.Pass(), statement)
            yield f"line {statement.lineno}: left out: {text}", _setter(block, at, nothing)


def _is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)


def _setter(items: list[Any], at: int, value: object) -> Callable[[], None]:
    return lambda: items.__setitem__(at, value)


def _attribute(node: ast.AST, name: str, value: object) -> Callable[[], None]:
    return lambda: setattr(node, name, value)


def mutants(source: str, count: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Yield up to `count` changed sources, each with a description of its change."""
    whole = ast.parse(source)
    numbers = list(range(sum(1 for _ in changes(whole))))
    for number in sorted(chance.sample(numbers, min(count, len(numbers)))):
        tree = copy.deepcopy(whole)
        what, make = list(changes(tree))[number]
        make()
        yield what, ast.unparse(ast.fix_missing_locations(tree))


def main(arguments: list[str] | None = None) -> int:
    """Run the check, print the survivors, and return how many there are, at most 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="+", help="modules to change, from the root of the checkout")
    parser.add_argument("--tests", nargs="+", required=True, help="what to run")
    parser.add_argument("--select", default="", help="pytest's -k")
    parser.add_argument("--count", type=int, default=10, help="changes of each module")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    tried = survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            copier = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
            copier(ROOT / part, folder / part)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n0",
            "-p",
            "no:cacheprovider",
            *options.tests,
        ]
        command += ["-k", options.select] if options.select else []
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
        for module in options.modules:
            source = (ROOT / module).read_text("utf-8")
            for what, changed in mutants(source, options.count, chance):
                (folder / module).write_text(changed, "utf-8")
                try:
                    status = subprocess.run(  # noqa: S603 - pytest on this checkout
                        command, cwd=folder, env=environment, capture_output=True, timeout=180, check=False
                    ).returncode
                except subprocess.TimeoutExpired:
                    status = 1
                tried += 1
                if status == 0:
                    survived += 1
                    print(f"SURVIVED {module}, {what}", flush=True)
            (folder / module).write_text(source, "utf-8")
    print(f"{tried} changes, {survived} survived")
    return min(1, survived)


if __name__ == "__main__":
    sys.exit(main())
