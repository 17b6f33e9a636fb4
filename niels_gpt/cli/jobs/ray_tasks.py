"""Run the shards of a job as tasks of a Ray cluster.

Ray distributes, retries and holds back; a task runs the same command as a person would, with `--shard I/N`.
Every node must have this program installed and see the input, the checkpoint and the output under the same
paths. A task whose worker died runs again and resumes from its journal.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from niels_gpt.cli.exit_codes import DIVERGED, OK, UNVERIFIABLE
from niels_gpt.cli.jobs import shards
from niels_gpt.cli.jobs.progress import Progress
from niels_gpt.errors import NielsGptError

_PROGRAMS = {
    "niels-chat": ("niels_gpt.chat_cli", "run_chat_cli"),
    "niels-generate": ("niels_gpt.generate_cli", "main"),
}
_SHARDS_OF_A_CPU = 4  # small enough that the last shards end together
_WAITING_OF_A_CPU = 2  # tasks that are submitted ahead
_RETRIES = 20
_DONE = (OK, DIVERGED, UNVERIFIABLE)


class RayError(NielsGptError):
    """A job that cannot be run by Ray."""


def add_ray(parser: Any) -> None:
    """Add `--ray` to a parser or a group of one."""
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="run the shards on a Ray cluster and merge them (default: one that is started on this machine)",
    )  # fmt: skip


def run_shards(program: str, arguments: Sequence[str], output: Path, *, address: str) -> None:
    """Run all shards of a command; the outputs of those that are complete already are kept.

    Args:
        program: niels-chat or niels-generate.
        arguments: The command's arguments without `--shard`.
        output: The output that `arguments` name.
        address: The cluster's address; "" for one on this machine.

    Raises:
        RayError: Ray is missing or cannot be reached, or a shard failed.

    """
    ray = _imported()
    try:
        ray.init(address=address or None, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayError(f"no Ray cluster at {address!r}: {error}") from error
    try:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = shards.count_of(output) or _SHARDS_OF_A_CPU * cpus
        _run_tasks(ray, program, arguments, count, most=_WAITING_OF_A_CPU * cpus)
    finally:
        ray.shutdown()


def _run_tasks(ray: Any, program: str, arguments: Sequence[str], count: int, *, most: int) -> None:
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(run_shard)
    progress = Progress(count, sys.stderr, unit="shards")
    waiting: dict[Any, int] = {}
    ahead = iter(range(count))
    while True:
        for number in ahead:
            waiting[task.remote(program, [*arguments, "--shard", f"{number}/{count}"])] = number
            if len(waiting) >= most:
                break
        if not waiting:
            break
        [done], _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(done)
        try:
            status, said = ray.get(done)
        except ray.exceptions.RayError as error:
            raise RayError(f"shard {number}/{count} was lost {_RETRIES + 1} times: {error}") from error
        if status not in _DONE:
            raise RayError(f"shard {number}/{count} ended with status {status}: {said}")
        progress.add(replies=1)
    progress.finish()


def run_shard(program: str, argv: list[str]) -> tuple[int, str]:
    """Run one command in this process; return its status and the last line of its standard error."""
    module, name = _PROGRAMS[program]
    main: Callable[[list[str]], int] = getattr(importlib.import_module(module), name)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(argv)
    return status, (said.getvalue().strip().splitlines() or [""])[-1]


def _imported() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RayError("--ray needs Ray: pip install 'niels-gpt[ray]'") from error
