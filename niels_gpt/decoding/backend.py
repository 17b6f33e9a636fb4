"""Choose the decoder: the kernels on a CPU or an NVIDIA GPU, torch elsewhere and where Numba cannot run.

Only the kernels multiply int8 weights. torch does not replace them there: its replies would be those of a
different model. torch is imported only where it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from niels_gpt.decoding.compile import compile_kernels
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.device import gpu_number, torch_device
from niels_gpt.errors import NielsGptError
from niels_gpt.kernels import GroupForm, UnsupportedFormError, WeightForm, why_unavailable
from niels_gpt.model.config import ModelConfig, to_dict
from niels_gpt.model.fingerprint import Fingerprint, int8_weights_digest, quantised_digest
from niels_gpt.model.form import Form
from niels_gpt.model.loading import LoadedModel
from niels_gpt.model.stored import release_pages
from niels_gpt.sampling import Sampling
from niels_gpt.text.chat_template import Template
from niels_gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from niels_gpt.decoding.cuda_decoder import CudaDecoder
    from niels_gpt.decoding.kernel_decoder import KernelDecoder
    from niels_gpt.decoding.torch_decoder import TorchDecoder
    from niels_gpt.decoding.torch_recurrent_decoder import TorchStateDecoder
    from niels_gpt.kernels.bdh_packing import PackedBDH
    from niels_gpt.kernels.gpt_packing import PackedModel
    from niels_gpt.model.registry import AnyModel, Model

    AnyTorchDecoder = TorchDecoder | TorchStateDecoder
    AnyDecoder = AnyTorchDecoder | KernelDecoder | CudaDecoder


class BackendError(NielsGptError):
    """The requested arithmetic is not available on this device or machine."""


class _NoKernelsError(NielsGptError):
    """The kernels cannot run here: the message is that of `why_unavailable`."""


@dataclass(kw_only=True, eq=False)
class Backend:
    """A model that is ready to generate, as every program of this project uses it."""

    decoder: AnyDecoder
    tokenizer: Tokenizer
    template: Template
    context_length: int
    """T, the most tokens that a prompt and its reply have together."""
    fingerprint: Fingerprint
    """The checkpoint's, with the digest of the weights in the form that the decoder multiplies."""
    checkpoint: Mapping[str, Any]
    """The arguments of `sessions.Store.remember_checkpoint`."""
    environment: Mapping[str, object]
    """What explains a reply's bits apart from the checkpoint."""
    notice: str | None = None
    """A line for the user about the model or the choice of the decoder, to show before the first reply."""
    use_cache: bool = True
    """Whether requests of this backend use the key/value cache; it changes no bit."""
    speculation: bool = True
    """Whether its decoder may draft tokens of a reply while no other runs; it changes no bit."""

    def request(
        self,
        *,
        prompt_ids: tuple[int, ...],
        sampling: Sampling,
        max_new_tokens: int,
        seed: int,
        stop: Sequence[str] = (),
        forced_ids: tuple[int, ...] = (),
        examples: tuple[tuple[int, ...], ...] = (),
    ) -> GenerationRequest:
        """Return the request for one reply, which ends as the template says.

        Args:
            prompt_ids: The prompt.
            sampling: How a token is chosen.
            max_new_tokens: The longest reply, in tokens.
            seed: The seed of the reply's own generator.
            stop: Texts that end the reply, in addition to those of the template.
            forced_ids: The reply's first tokens, taken instead of drawn.
            examples: Earlier replies that this one may repeat in part, the likeliest last.

        Raises:
            RequestError: A value is out of range, or the forced ids leave nothing to draw.

        """
        return GenerationRequest(
            prompt_ids=prompt_ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            stop_ids=self.template.stop_ids,
            stop_sequences=(*self.template.stop_sequences, *(text.encode() for text in stop)),
            banned_ids=self.template.banned_ids,
            forced_ids=forced_ids,
            use_cache=self.use_cache,
            speculate=self.speculation,
            examples=examples if self.drafts else (),
        )

    @property
    def drafts(self) -> bool:
        """Whether examples of a reply make it faster."""
        return self.speculation and self.use_cache and getattr(self.decoder, "reads_drafts", False)

    def close(self) -> None:
        """End the decoder's threads; closing again has no effect."""
        self.decoder.close()


def open_backend(
    loaded: LoadedModel,
    *,
    device: str = "cpu",
    weights: WeightForm = "float32",
    threads: int | None = None,
    use_cache: bool = True,
    speculation: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Backend:
    """Make the decoder for a model on `device`: for "cpu" and "cuda" the kernels, compiled when this returns.

    Args:
        loaded: The model with its tokenizer.
        device: Where to compute; see `niels_gpt.device`.
        weights: The form in which the weights are multiplied; "float32" is the file's own.
        threads: Threads that share a step of the kernels; None: one, or two where that measures faster
            (`decoding.pacing`). The number changes no bit of a reply.
        use_cache: Whether `Backend.request` makes requests that use the key/value cache.
        speculation: Whether the decoder may draft a reply while no other runs, where that is faster.
        on_progress: Called with (kernels compiled, kernels in all) while they are compiled, which happens
            once; first with none compiled.

    Raises:
        BackendError: Weights of this form are not possible for the model, the device or this machine, a GPU
            cannot run the kernels, or `threads` is below 1.

    """
    backend = _open(loaded, device, weights, threads, on_progress, use_cache=use_cache)
    backend.speculation = speculation
    return backend


def _open(
    loaded: LoadedModel,
    device: str,
    weights: WeightForm,
    threads: int | None,
    on_progress: Callable[[int, int], None] | None,
    *,
    use_cache: bool,
) -> Backend:
    _check(loaded, device, weights, threads)
    if device.startswith("cuda"):
        return _cuda(loaded, device, weights, on_progress, use_cache=use_cache)
    if device != "cpu":
        return _torch(loaded, device, use_cache=use_cache)
    fault = why_unavailable(compiled=True)
    if fault is None:
        try:
            return _kernels(loaded, weights, threads, on_progress, use_cache=use_cache)
        except _NoKernelsError as error:
            fault = str(error)
        except UnsupportedFormError as error:
            if weights != "float32":
                raise BackendError(
                    f"{error}, and {weights} weights need them; use float32 weights"
                ) from error
            return _torch(loaded, device, use_cache=use_cache, notice=f"{error}; torch answers instead")
    if weights != "float32":
        raise BackendError(
            f"the kernels cannot run here ({fault}), and {weights} weights need them; use float32 weights"
        )
    notice = f"the exact kernels cannot run here ({fault}); torch answers instead"
    return _torch(loaded, device, use_cache=use_cache, notice=notice)


def _check(loaded: LoadedModel, device: str, weights: WeightForm, threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise BackendError(f"got {threads=!r}, expected at least 1, or None for the kernels' own choice")
    if weights != "float32" and loaded.cfg.arch not in {"gpt", "transformer"}:
        raise BackendError(f"a {loaded.cfg.arch} model has no {weights} weights; use float32 weights")
    if weights != "float32" and not device.startswith(("cpu", "cuda")):
        raise BackendError(
            f"{weights} weights need the kernels, got {device=!r}; use cpu or cuda, or float32 weights"
        )


def torch_decoder(model: AnyModel, tokenizer: Tokenizer, *, device: str = "cpu") -> AnyTorchDecoder:
    """Make the torch decoder for a model's architecture."""
    from niels_gpt.decoding.torch_decoder import TorchDecoder  # noqa: PLC0415 - torch
    from niels_gpt.decoding.torch_recurrent_decoder import TorchStateDecoder  # noqa: PLC0415 - torch
    from niels_gpt.model.gpt import GPT  # noqa: PLC0415 - torch

    if isinstance(model, GPT):
        return TorchDecoder(model, tokenizer, device=device)
    return TorchStateDecoder(model, tokenizer, device=device)


def _backend(
    loaded: LoadedModel,
    decoder: AnyDecoder,
    fingerprint: Fingerprint,
    environment: Mapping[str, object],
    *,
    use_cache: bool,
    notice: str | None = None,
) -> Backend:
    cfg = loaded.cfg
    return Backend(
        decoder=decoder,
        tokenizer=loaded.tokenizer,
        template=loaded.template,
        context_length=cfg.context,
        fingerprint=fingerprint,
        checkpoint={
            "fingerprint": fingerprint.digest,
            "parts": asdict(fingerprint),
            "config": to_dict(cfg) if isinstance(cfg, ModelConfig) else cfg.to_dict(),
            "step": loaded.step,
            # A relative path would mean another file in another folder.
            "path": str(loaded.path.absolute()),
        },
        environment=environment,
        notice=notice or loaded.notice,
        use_cache=use_cache,
    )


def _torch(loaded: LoadedModel, device: str, *, use_cache: bool, notice: str | None = None) -> Backend:
    import torch  # noqa: PLC0415 - heavy

    # One thread owns the compute: two of OpenMP, used from a thread that is not the main one, can collapse to
    # a tenth of the speed.
    torch.set_num_threads(1)
    decoder = torch_decoder(loaded.model, loaded.tokenizer, device=torch_device(device))
    environment = Fingerprint.environment(device=device, path="torch")
    return _backend(loaded, decoder, loaded.fingerprint, environment, use_cache=use_cache, notice=notice)


def _kernels(
    loaded: LoadedModel,
    weights: WeightForm,
    threads: int | None,
    on_progress: Callable[[int, int], None] | None,
    *,
    use_cache: bool,
) -> Backend:
    from niels_gpt.decoding.kernel_decoder import KernelDecoder  # noqa: PLC0415 - it may be what is missing
    from niels_gpt.kernels.object_code import is_prepared  # noqa: PLC0415
    from niels_gpt.kernels.packing import check_supported, kind_for  # noqa: PLC0415

    foreign = isinstance(loaded.cfg, Form)
    form: GroupForm = "stored" if foreign and weights == "float32" else weights
    kind = "float32"
    if loaded.cfg.arch in {"gpt", "transformer"}:
        check_supported(loaded.form)
        kind = kind_for(loaded.form, loaded.weights, form)
    arch = "gpt" if foreign else loaded.cfg.arch  # the forward pass of every form is that of a GPT
    fault = None if is_prepared(kind, arch) else why_unavailable()
    if fault is not None:
        raise _NoKernelsError(fault)
    compile_kernels(kind, arch=arch, on_progress=on_progress)
    packed = _packed(loaded, form, weights)
    decoder = KernelDecoder(packed, loaded.tokenizer, threads=threads)
    environment = Fingerprint.environment(device="cpu", path="kernels") | {
        "weights": form,
        "numba": version("numba"),
        "kernel_version": packed.version,
        "threads": decoder.threads,
    }
    return _backend(loaded, decoder, _fingerprint(loaded, form), environment, use_cache=use_cache)


def _cuda(
    loaded: LoadedModel,
    device: str,
    weights: WeightForm,
    on_progress: Callable[[int, int], None] | None,
    *,
    use_cache: bool,
) -> Backend:
    """Use the kernels on a GPU, or raise: other arithmetic would give replies that no replay confirms."""
    fault = why_unavailable()  # weights are packed with Numba's kernels
    if fault is not None:
        raise BackendError(f"the kernels cannot run here ({fault}); use torch:cuda")

    from niels_gpt.decoding.cuda_decoder import CudaDecoder  # noqa: PLC0415 - Numba
    from niels_gpt.decoding.nvidia import NvidiaDriver  # noqa: PLC0415
    from niels_gpt.kernels.packing import check_supported  # noqa: PLC0415

    form: GroupForm = "stored" if isinstance(loaded.cfg, Form) and weights == "float32" else weights
    try:
        if loaded.cfg.arch in {"gpt", "transformer"}:
            check_supported(loaded.form)
        packed = _packed(loaded, form, weights)
        driver = NvidiaDriver(gpu_number(device), weights=packed.kind, on_progress=on_progress)
        decoder = CudaDecoder(packed, loaded.tokenizer, driver)
    except UnsupportedFormError as error:
        raise BackendError(f"{error}; use --device cpu, or torch:cuda for replies of torch's") from error
    except MemoryError as error:
        message = f"{str(loaded.path)!r} does not fit into the memory of {device}: {error}"
        raise BackendError(message) from error
    environment = Fingerprint.environment(device=driver.name, path="kernels") | {
        "weights": form,
        "kernel_version": packed.version,
        "threads": decoder.threads,
    }
    return _backend(loaded, decoder, _fingerprint(loaded, form), environment, use_cache=use_cache)


def _packed(loaded: LoadedModel, form: GroupForm, weights: WeightForm) -> PackedModel | PackedBDH:
    from niels_gpt.kernels.packing import pack, pack_model, pack_state  # noqa: PLC0415 - Numba

    try:
        if isinstance(loaded.cfg, Form):
            content = f"{loaded.fingerprint.weights} {loaded.fingerprint.config}"
            packed = pack(loaded.form, loaded.weights, form, content)
            release_pages(weight.data for weight in loaded.weights.values())
            return packed
        if loaded.cfg.arch == "gpt" and loaded.state is not None:
            return pack_state(loaded.own_cfg, loaded.state, weights)  # without building a torch module
        return pack_model(cast("Model", loaded.model), weights)
    except ValueError as error:  # numbers in the file that no kernel can hold
        raise BackendError(f"the weights of {str(loaded.path)!r} cannot be used: {error}") from error


def _fingerprint(loaded: LoadedModel, form: GroupForm) -> Fingerprint:
    """Return the fingerprint of a model whose matrices are of a form."""
    if form in {"stored", "float32"}:
        return loaded.fingerprint
    if form == "int8" and isinstance(loaded.cfg, ModelConfig):
        return replace(loaded.fingerprint, weights=int8_weights_digest(loaded.model))
    from niels_gpt.kernels.integer_packing import RULE  # noqa: PLC0415 - Numba

    return replace(loaded.fingerprint, weights=quantised_digest(loaded.fingerprint.weights, form, RULE))
