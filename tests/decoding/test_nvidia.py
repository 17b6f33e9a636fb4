"""The driver of an NVIDIA GPU, as far as it can be tried without one: its refusals, and what it compiles."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from niels_gpt.decoding import nvidia
from niels_gpt.kernels.cuda.driver import Module, modules_for


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU as torch describes it."""
    monkeypatch.setattr(nvidia, "why_no_cuda", lambda _index: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "GPU of 2018")


@pytest.mark.usefixtures("gpu")
def test_without_cuda_core_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    fault = nvidia.why_unavailable()
    assert fault is not None
    assert fault.endswith("; pip install 'niels-gpt[cuda]'")
    assert "\n" not in fault


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: (7, 5))
    expected = "the kernels need compute capability 8.0, and the GPU of 2018 is older; use torch:cuda"
    assert nvidia.why_unavailable() == expected


class Loader:
    """The part of the driver that loads kernels, with a compiler and a GPU that record their calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.compiled: list[str] = []
        self.large: list[str] = []
        self.progress: list[tuple[int, int]] = []
        self.driver_version = 13000
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
        monkeypatch.setattr(nvidia, "compile_module", self._compile)
        versions = SimpleNamespace(__version__="13.0", nvrtcVersion=lambda: (0, 13, 0))
        monkeypatch.setattr(nvidia, "importlib", SimpleNamespace(import_module=lambda _name: versions))
        monkeypatch.setattr(
            nvidia.NvidiaDriver, "_allow_large_blocks", lambda _driver, kernel: self.large.append(kernel)
        )

    def _compile(self, module: Module, arch: str) -> bytes:
        self.compiled.append(module.file)
        return arch.encode()

    def load(self, kind: str, arch: str = "sm_90") -> None:
        driver = object.__new__(nvidia.NvidiaDriver)
        driver._arch, driver._kernels = arch, {}
        driver._driver = SimpleNamespace(cuDriverGetVersion=lambda: (0, self.driver_version))
        code = SimpleNamespace(from_cubin=lambda _code: SimpleNamespace(get_kernel=lambda name: name))
        driver._core = SimpleNamespace(ObjectCode=code)
        driver._load(modules_for(kind), lambda *done: self.progress.append(done))
        assert set(driver._kernels) == {name for module in modules_for(kind) for name in module.kernels}


def test_kernels_are_compiled_once_for_an_architecture_and_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loader, count = Loader(monkeypatch, tmp_path), len(modules_for("float32"))
    loader.load("float32")
    assert len(loader.compiled) == count
    assert loader.progress == [(n, count) for n in range(count + 1)]
    assert {"one_float32", "wide_64_float32", "attend_rows"} <= set(loader.large)
    loader.load("float32")
    assert len(loader.compiled) == count, "the second start loads them"
    assert len(loader.progress) == count + 1, "and has nothing to report"
    loader.load("float32", "sm_120")
    loader.driver_version += 10
    loader.load("float32")
    assert len(loader.compiled) == 3 * count
