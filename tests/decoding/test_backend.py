from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from niels_gpt.decoding import backend as backend_module
from niels_gpt.decoding.backend import BackendError, open_backend
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.kernels import INTEGER_VERSION, KERNEL_VERSION, WeightForm, object_code
from niels_gpt.kernels.integer_packing import RULE
from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.fingerprint import int8_weights_digest, quantised_digest
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import LoadedModel, load_model


@pytest.fixture
def loaded(new_model: Callable[..., GPT], tmp_path: Path) -> LoadedModel:
    cfg = ModelConfig(T=32, C=16, L=1, H=1, d_ff=16)
    path = tmp_path / "a.pt"
    train_cfg, model = TrainConfig(), new_model(cfg)
    save_checkpoint(
        path, model_cfg=cfg, train_cfg=train_cfg, model=model, optimizer=None, step=0, best_val_loss=None
    )
    return load_model(path)


def test_the_cpu_path_is_the_kernels_and_says_so(loaded: LoadedModel) -> None:
    backend = open_backend(loaded)
    assert isinstance(backend.decoder, KernelDecoder)
    assert backend.environment["path"] == "kernels"
    assert backend.environment["kernel_version"] == KERNEL_VERSION
    assert backend.environment["weights"] == "float32"
    assert backend.fingerprint == loaded.fingerprint
    assert backend.notice is None


def test_the_absolute_path_of_a_checkpoint_is_recorded(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(loaded.path.parent)
    with closing(open_backend(replace(loaded, path=Path(loaded.path.name)))) as backend:
        assert backend.checkpoint["path"] == str(loaded.path)
        assert backend.checkpoint["fingerprint"] == loaded.fingerprint.digest


def test_the_kernels_build_no_torch_module_of_our_checkpoints(loaded: LoadedModel) -> None:
    with closing(open_backend(loaded)):
        assert "model" not in vars(loaded)  # it is built when it is first asked for


def test_without_numba_torch_answers_and_says_why(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    backend = open_backend(loaded)
    assert isinstance(backend.decoder, TorchDecoder)
    assert backend.environment["path"] == "torch"
    assert "kernel_version" not in backend.environment
    assert backend.notice is not None
    assert "kernels cannot run here" in backend.notice


@pytest.mark.parametrize(
    "error", [MemoryError(), ZeroDivisionError(), ImportError("one of our own modules"), OSError()]
)
def test_torch_does_not_answer_for_an_error_of_another_kind(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(backend_module, "compile_kernels", fail)
    with pytest.raises(type(error)):
        open_backend(loaded)


def test_a_numba_that_does_not_fit_the_machine_is_like_none(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def load(name: str) -> ModuleType:
        if name == "numba":
            raise OSError(f"could not load the shared object of {name}")
        return real(name)

    monkeypatch.setattr(object_code, "is_prepared", lambda *_: False)
    monkeypatch.setattr(importlib, "import_module", load)
    backend = open_backend(loaded)
    assert backend.environment["path"] == "torch"
    assert "could not load the shared object of numba" in str(backend.notice)


def test_int8_weights_have_a_fingerprint_of_their_own(loaded: LoadedModel) -> None:
    backend = open_backend(loaded, weights="int8")
    assert isinstance(backend.decoder, KernelDecoder)
    assert backend.environment["weights"] == "int8"
    assert backend.fingerprint.weights == int8_weights_digest(loaded.model)
    assert backend.fingerprint == replace(loaded.fingerprint, weights=backend.fingerprint.weights)
    assert backend.fingerprint.digest != loaded.fingerprint.digest


def test_int8_weights_on_another_device_are_refused_in_one_line(loaded: LoadedModel) -> None:
    with pytest.raises(BackendError, match="need the kernels, got device='torch:cuda'") as refusal:
        open_backend(loaded, device="torch:cuda", weights="int8")
    assert "\n" not in str(refusal.value)


def test_torch_does_not_answer_for_int8_weights(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BackendError, match="int8 weights need them"):
        open_backend(loaded, weights="int8")


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_backend_has_the_threads_that_it_is_given(loaded: LoadedModel, threads: int) -> None:
    with closing(open_backend(loaded, threads=threads)) as backend:
        assert isinstance(backend.decoder, KernelDecoder)
        assert backend.decoder.threads == backend.environment["threads"] == threads


def test_no_threads_at_all_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BackendError, match="threads=0, expected at least 1"):
        open_backend(loaded, threads=0)


def test_a_backend_of_torch_can_be_closed_too(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    open_backend(loaded).close()


def test_nothing_is_told_of_kernels_that_are_compiled(loaded: LoadedModel) -> None:
    told: list[tuple[int, int]] = []
    open_backend(loaded).close()
    open_backend(loaded, on_progress=lambda done, total: told.append((done, total))).close()
    assert told == []


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_weights_in_groups_are_a_model_of_their_own(loaded: LoadedModel, weights: WeightForm) -> None:
    with closing(open_backend(loaded, weights=weights)) as backend:
        assert isinstance(backend.decoder, KernelDecoder)
        assert backend.environment["weights"] == weights
        assert backend.environment["kernel_version"] == INTEGER_VERSION
        expected = quantised_digest(loaded.fingerprint.weights, weights, RULE)
        assert backend.fingerprint == replace(loaded.fingerprint, weights=expected)


@pytest.mark.parametrize("weights", ["float32", "int8", "q8", "q4"])
def test_a_model_of_another_project_has_every_form_of_weights(
    loaded: LoadedModel, weights: WeightForm
) -> None:
    foreign = replace(loaded, cfg=loaded.form, mapped=loaded.weights, state=None)
    with closing(open_backend(foreign, weights=weights)) as backend:
        assert isinstance(backend.decoder, KernelDecoder)
        assert backend.environment["weights"] == ("stored" if weights == "float32" else weights)
        assert (backend.fingerprint == loaded.fingerprint) == (weights == "float32")
        assert "model" not in vars(foreign)


def test_a_form_of_weights_that_the_kernels_do_not_have_is_refused_in_one_line(loaded: LoadedModel) -> None:
    form = replace(loaded.form, parallel="two", norms=("attn_in", "mlp_in", "mlp_out"))
    with pytest.raises(BackendError, match="q8 weights need them; use float32 weights") as refusal:
        open_backend(replace(loaded, cfg=form, mapped=loaded.weights, state=None), weights="q8")
    assert "\n" not in str(refusal.value)
