"""A driver for NVIDIA GPUs: NVRTC compiles, cuda-core launches, torch owns memory and streams.

Kernels are compiled when they are first needed, for the GPU at hand, and kept on disk. Importing this module
imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from niels_gpt.atomic_io import atomic_write
from niels_gpt.device import why_no_cuda
from niels_gpt.kernels.cache import claim_folder
from niels_gpt.kernels.cuda.driver import LARGE_BLOCKS, Argument, Module, modules_for
from niels_gpt.kernels.cuda.nvrtc import CudaError, checked, compile_module, stored_module

OLDEST = (8, 0)
"""The lowest compute capability: the first with asynchronous copies into shared memory."""
INSTALL = "pip install 'niels-gpt[cuda]'"
Report = Callable[[int, int], None]
"""A callback that receives (modules compiled, modules in all)."""


def why_unavailable(index: int = 0) -> str | None:
    """Return a one-line reason why the kernels cannot run on this GPU, with what to do, or None."""
    fault = why_no_cuda(index)
    if fault is not None:
        return fault
    import torch  # noqa: PLC0415 - 1.4 s

    if torch.cuda.get_device_capability(index) < OLDEST:
        name = torch.cuda.get_device_name(index)
        return f"the kernels need compute capability 8.0, and the {name} is older; use torch:cuda"
    try:
        importlib.import_module("cuda.core")
    except ImportError as error:
        return f"cuda-core cannot be imported ({error}); {INSTALL}"
    return None


class NvidiaDriver:
    """One GPU, see `driver.Driver`."""

    def __init__(
        self, index: int = 0, *, weights: str = "float32", on_progress: Report | None = None
    ) -> None:
        """Compile or load the kernels for models whose packed weights are of this kind.

        Raises:
            CudaError: The GPU cannot be used; the message says why.

        """
        fault = why_unavailable(index)
        if fault is not None:
            raise CudaError(f"the GPU kernels cannot run here: {fault}")
        import torch  # noqa: PLC0415

        self._torch, self._index = torch, index
        self._core = importlib.import_module("cuda.core")
        self._driver = importlib.import_module("cuda.bindings.driver")
        self._device = self._core.Device(index)
        self._entered: set[int] = set()
        self._enter()
        properties = self._device.properties
        self.processors = int(properties.multiprocessor_count)
        self.shared_bytes = int(properties.max_shared_memory_per_block_optin)
        self.name = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        capability = self._device.compute_capability
        self._arch = f"sm_{capability.major}{capability.minor}"
        self._torch_stream = torch.cuda.Stream(index)
        self._stream = self._device.create_stream(_Borrowed(self._torch_stream.cuda_stream))
        self._memory: dict[int, Any] = {}
        self._kernels: dict[str, Any] = {}
        self._load(modules_for(weights), on_progress)

    def _load(self, modules: Sequence[Module], on_progress: Report | None) -> None:
        bindings = importlib.import_module("cuda.bindings").__version__
        nvrtc = checked(importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion())
        versions = f"{bindings} {nvrtc} {checked(self._driver.cuDriverGetVersion())}"
        stored, reported = claim_folder(), False
        for done, module in enumerate(modules):
            path, code = stored_module(module, self._arch, versions)
            if code is None:
                if on_progress is not None:
                    on_progress(done, len(modules))
                    reported = True
                code = compile_module(module, self._arch)
                if stored:
                    with contextlib.suppress(OSError), atomic_write(path) as file:
                        file.write(code)
            loaded = self._core.ObjectCode.from_cubin(code)
            for kernel in module.kernels:
                self._kernels[kernel] = loaded.get_kernel(kernel)
                if kernel in LARGE_BLOCKS:
                    self._allow_large_blocks(self._kernels[kernel])
        if reported and on_progress is not None:
            on_progress(len(modules), len(modules))

    def _allow_large_blocks(self, kernel: Any) -> None:
        """Let a kernel use more shared memory than a block has by default."""
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        device = self._driver.CUdevice(self._index)
        checked(self._driver.cuKernelSetAttribute(attribute, self.shared_bytes, kernel.handle, device))

    def _enter(self) -> None:
        """Make the GPU current on this thread."""
        thread = threading.get_ident()
        if thread not in self._entered:
            self._torch.cuda.set_device(self._index)
            self._core.Device(self._index).set_current()  # an object of this thread's own
            self._entered.add(thread)

    def free_bytes(self) -> int:
        """See `Driver`."""
        self._enter()
        cuda = self._torch.cuda
        unused = cuda.memory_reserved(self._index) - cuda.memory_allocated(self._index)
        return cuda.mem_get_info(self._index)[0] + unused

    def allocate(self, nbytes: int) -> int:
        """See `Driver`."""
        self._enter()
        try:
            with self._torch.cuda.stream(self._torch_stream):
                tensor = self._torch.zeros(
                    max(nbytes, 1), dtype=self._torch.uint8, device=f"cuda:{self._index}"
                )
        except self._torch.cuda.OutOfMemoryError as error:
            raise MemoryError(f"the GPU has too little memory for {nbytes:,} bytes more") from error
        self._memory[tensor.data_ptr()] = tensor
        return tensor.data_ptr()

    def free(self, address: int) -> None:
        """See `Driver`."""
        del self._memory[address]

    def upload(self, address: int, array: np.ndarray) -> None:
        """See `Driver`. The array is not pinned, so it has been read when the call returns."""
        self._enter()
        stream = self._torch_stream.cuda_stream
        checked(self._driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, stream))

    def download(self, address: int, array: np.ndarray) -> None:
        """See `Driver`."""
        self._enter()
        stream = self._torch_stream.cuda_stream
        checked(self._driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, stream))
        self._torch_stream.synchronize()

    def launch(
        self,
        kernel: str,
        blocks: tuple[int, int],
        threads: int,
        arguments: tuple[Argument, ...],
        *,
        shared: int = 0,
    ) -> None:
        """See `Driver`."""
        self._enter()
        config = self._core.LaunchConfig(grid=blocks, block=threads, shmem_size=shared)
        self._core.launch(self._stream, config, self._kernels[kernel], *arguments)

    def graph(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Driver`."""
        self._enter()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._torch_stream, capture_error_mode="thread_local"):
            work()

        def replay() -> None:
            self._enter()
            with self._torch.cuda.stream(self._torch_stream):
                graph.replay()

        return replay


class _Borrowed:
    """A stream of torch's, as cuda-core takes it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle
