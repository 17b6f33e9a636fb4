"""Kernels are compiled in parts, side by side, and each start that finds them on disk compiles nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from niels_gpt.decoding import compile as compiling
from niels_gpt.decoding.compile import PARTS, compile_kernels
from niels_gpt.kernels.cache import is_prepared

REAL = subprocess.Popen
Told = list[tuple[int, int]]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def compiled(
    monkeypatch: pytest.MonkeyPatch, processors: int, kind: str = "float32"
) -> tuple[Told, list[str]]:
    """Compile with processes that only say that they have; return what was told and what was left."""
    told: Told = []
    left: list[str] = []

    def pretend(command: list[str], **options: object) -> subprocess.Popen[str]:
        parts = command[command.index("--parts") + 1]
        code = f"for part in {parts!r}.split(','): print(part, flush=True)"
        return REAL([sys.executable, "-c", code], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(compiling.subprocess, "Popen", pretend)
    monkeypatch.setattr(compiling, "processors", lambda: processors)
    monkeypatch.setattr(compiling, "compile_part", lambda part, *_: left.append(part))
    compile_kernels(kind, on_progress=lambda done, total: told.append((done, total)))
    return told, left


@pytest.mark.parametrize("processors", [1, 2, 64])
def test_every_part_is_told_once_and_loaded_afterwards(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    told, left = compiled(monkeypatch, processors)
    assert told[0] == (0, len(PARTS))
    assert [done for done, _ in told] == list(range(len(PARTS) + 1))
    assert left == list(PARTS)
    assert is_prepared()
    assert compiled(monkeypatch, processors) == ([], [])
    assert compiled(monkeypatch, processors, "int8") == ([(0, 1), (1, 1)], ["products"])


def test_without_processes_everything_is_compiled_here(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    left: list[str] = []
    monkeypatch.setattr(compiling.subprocess, "Popen", fail)
    monkeypatch.setattr(compiling, "compile_part", lambda part, *_: left.append(part))
    compile_kernels()
    assert left == list(PARTS)


@pytest.mark.timeout(300)  # on a cold cache it compiles
def test_a_part_that_was_compiled_is_loaded_by_what_decodes(tmp_path: Path) -> None:
    """The types for which a part is compiled in advance are those that it is called with."""
    program = (
        "from numba.core import event\n"
        "from niels_gpt.decoding.compile import PARTS, compile_part\n"
        "from niels_gpt.decoding.backend import open_backend\n"
        "from niels_gpt.model.loading import load_model\n"
        "from niels_gpt.paths import SHIPPED_CHECKPOINT\n"
        "from niels_gpt.decoding.request import GenerationRequest\n"
        "from niels_gpt.sampling import Sampling\n"
        "decoder = open_backend(load_model(SHIPPED_CHECKPOINT)).decoder\n"
        "told = []\n"
        "class Listener(event.Listener):\n"
        "    def on_start(self, event): told.append(event.data['dispatcher'].py_func.__name__)\n"
        "    def on_end(self, event): pass\n"
        "request = GenerationRequest(prompt_ids=(1,), max_new_tokens=2, sampling=Sampling(), seed=0,\n"
        "    stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset())\n"
        "sequence = decoder.admit(request)\n"
        "with event.install_listener('numba:compile', Listener()):\n"
        "    for _ in range(2): decoder.advance([sequence])\n"
        "print(told)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
