"""Kernels are compiled in parts, side by side, and each start that finds them on disk compiles nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.decoding import compile as compiling
from niels_gpt.decoding.compile import compile_kernels
from niels_gpt.kernels import build, object_code
from niels_gpt.kernels.cache import cache_folder
from niels_gpt.kernels.object_code import is_prepared, is_stored, parts_of

REAL = subprocess.Popen
PARTS = parts_of("float32")
Told = list[tuple[int, int]]
STORE = """
import pathlib, sys
from niels_gpt.kernels import build, object_code
build.compile_part = lambda part: (part, b"code")
for part in sys.argv[1].split(","):
    object_code.store(part)
    print(part, flush=True)
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without kernels; what is found there is not loaded."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(object_code, "_loaded", {})
    monkeypatch.setattr(object_code, "_linked", lambda symbol, _code: (len(symbol), None))
    return tmp_path


@pytest.fixture
def compiled_here(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that this process compiles, to nothing."""
    parts: list[str] = []

    def compile_part(part: str) -> tuple[str, bytes]:
        parts.append(part)
        return part, b"code"

    monkeypatch.setattr(build, "compile_part", compile_part)
    return parts


def compiled(monkeypatch: pytest.MonkeyPatch, processors: int, kind: str = "float32") -> Told:
    """Compile with processes that store files without code; return what was told."""
    told: Told = []

    def pretend(command: list[str], **options: object) -> subprocess.Popen[str]:
        parts = command[command.index("--parts") + 1]
        return REAL([sys.executable, "-c", STORE, parts], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(compiling.subprocess, "Popen", pretend)
    monkeypatch.setattr(compiling, "processors", lambda: processors)
    compile_kernels(kind, on_progress=lambda done, total: told.append((done, total)))
    return told


@pytest.mark.parametrize("processors", [1, 2])
def test_every_part_is_told_once_and_loaded_afterwards(
    compiled_here: list[str], monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    told = compiled(monkeypatch, processors)
    assert told == [(done, len(PARTS)) for done in range(len(PARTS) + 1)]
    assert sorted(object_code._loaded) == sorted(PARTS)
    assert is_prepared()
    assert compiled(monkeypatch, processors) == []
    assert compiled(monkeypatch, processors, "int8") == [(0, 1), (1, 1)]
    assert compiled_here == []


def test_parts_are_divided_among_processes_by_the_time_that_they_take() -> None:
    shares = compiling._shares(PARTS, 2)
    assert sorted(part for share in shares for part in share) == sorted(PARTS)
    seconds = [sum(map(compiling._seconds, share)) for share in shares]
    assert max(seconds) < 1.3 * min(seconds)


def test_without_processes_everything_is_compiled_here(
    compiled_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(compiling.subprocess, "Popen", fail)
    compile_kernels()
    assert compiled_here == PARTS
    assert is_prepared()


def test_each_form_of_weights_is_prepared_for_itself(compiled_here: list[str]) -> None:
    for part in parts_of("float32"):
        object_code.store(part)
    assert is_prepared("float32")
    assert not is_prepared("int8")
    assert not is_prepared("float32", "bdh")
    assert cache_folder() in object_code._path("sampler").parents


def test_another_processor_is_not_prepared(compiled_here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several machines may share the folder."""
    object_code.store("sampler")
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    assert not is_stored("sampler")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda code: code[:-1], id="cut off"),
        pytest.param(lambda code: code.replace(b"code", b"c0de"), id="changed"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda code: code.replace(b"sampler", b"\xff\xff"), id="not a name"),
    ],
)
def test_a_damaged_file_is_compiled_again(compiled_here: list[str], damage: Callable[[bytes], bytes]) -> None:
    object_code.store("sampler")
    path = object_code._path("sampler")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    object_code.address_of("sampler")
    assert compiled_here == ["sampler"] * 2
    assert path.read_bytes() == whole


def test_where_nothing_can_be_stored_parts_are_compiled_for_each_process(
    elsewhere: Path, compiled_here: list[str]
) -> None:
    (elsewhere / "kernels").write_text("a file in the way of the folder")
    object_code.address_of("sampler")
    assert compiled_here == ["sampler"]
    assert not is_stored("sampler")


@pytest.mark.timeout(300)  # on a cold cache it compiles
def test_threads_that_ask_for_a_part_at_once_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_kernels()
    monkeypatch.setattr(object_code, "_loaded", {})
    linked: list[str] = []
    real, together = object_code._linked, threading.Barrier(4)

    def count(symbol: str, code: bytes) -> tuple[int, Any]:
        linked.append(symbol)
        return real(symbol, code)

    def ask(_: int) -> int:
        together.wait(20)
        return object_code.address_of("sampler")

    monkeypatch.setattr(object_code, "_linked", count)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert len(linked) == 1


@pytest.mark.timeout(300)  # on a cold cache it compiles
def test_a_reply_of_compiled_kernels_imports_neither_numba_nor_torch() -> None:
    compile_kernels()
    program = (
        "import sys\n"
        "from niels_gpt.decoding.backend import open_backend\n"
        "from niels_gpt.model.loading import load_model\n"
        "from niels_gpt.paths import SHIPPED_CHECKPOINT\n"
        "from niels_gpt.decoding.request import GenerationRequest\n"
        "from niels_gpt.sampling import Sampling\n"
        "decoder = open_backend(load_model(SHIPPED_CHECKPOINT)).decoder\n"
        "request = GenerationRequest(prompt_ids=(1,), max_new_tokens=2, sampling=Sampling(), seed=0,\n"
        "    stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset())\n"
        "sequence = decoder.admit(request)\n"
        "for _ in range(2): decoder.advance([sequence])\n"
        "print({'numba', 'torch'} & sys.modules.keys(), len(sequence.reply.ids))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set() 3", done.stdout + done.stderr
