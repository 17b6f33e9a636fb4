"""Train in one process or several: collective operations, and the wrapper of the model.

Every process computes its own rows of the same batch, and all take the same step. With "ddp" each process
holds the whole model; with "fsdp2" each holds a part of every weight, gathered block by block. torchrun
starts the processes and describes them in the environment.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from niels_gpt.train.errors import TrainingError
from niels_gpt.train.loss import TrainingForward


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """The processes of a run, and this one's place among them."""

    rank: int = 0
    size: int = 1
    kind: str = "ddp"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether weights are held in parts."""
        return self.size > 1 and self.kind == "fsdp2"

    def wrapped(self, forward: TrainingForward, *, device: str) -> nn.Module:
        """Return the module that training calls; with "fsdp2" it holds a part of each parameter."""
        if self.size == 1:
            return forward
        if self.shards:
            from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - seconds, and seldom asked for

            mesh = dist.device_mesh.init_device_mesh(torch.device(device).type, (self.size,))
            for block in forward.model.layers():
                fully_shard(block, mesh=mesh)
            fully_shard(forward, mesh=mesh)
            return forward
        wrapper, index = nn.parallel.DistributedDataParallel, torch.device(device).index
        # Buffers are tables that follow from the config. torch 2.13 renamed the setting.
        names = inspect.signature(wrapper).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        settings: dict[str, Any] = {buffers: False}
        return wrapper(forward, device_ids=None if index is None else [index], **settings)

    @contextlib.contextmanager
    def gradient_sync(self, forward: nn.Module, *, last: bool) -> Iterator[None]:
        """Exchange gradients in the backward pass of the last part of a step only."""
        if self.size == 1 or last:
            if self.shards:
                forward.set_requires_gradient_sync(True)  # pyright: ignore[reportCallIssue] # FSDPModule
            yield
        elif self.shards:
            forward.set_requires_gradient_sync(False)  # pyright: ignore[reportCallIssue]
            yield
        else:
            assert isinstance(forward, nn.parallel.DistributedDataParallel)  # noqa: S101 - see wrapped
            with forward.no_sync():
                yield

    def sum(self, value: float) -> float:
        """Return the sum of the values of all processes."""
        return value if self.size == 1 else self._reduced(value, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - the flag is the value
        """Return whether `flag` is True in any process."""
        return flag if self.size == 1 else self._reduced(float(flag), dist.ReduceOp.MAX) > 0.0

    def broadcast(self, value: float) -> float:
        """Return the main process's value, so that all processes decide alike."""
        return value if self.size == 1 else self._reduced(value if self.is_main else 0.0, dist.ReduceOp.SUM)

    def wait(self) -> None:
        """Wait until all processes have called it."""
        if self.size > 1:
            dist.barrier()

    def gathered(self, state: Any) -> Any:
        """Return a state with whole weights instead of parts. All processes must call it."""
        return _mapped(state, _whole) if self.shards else state

    def _reduced(self, value: float, operation: Any) -> float:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        held = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(held, op=operation)
        return held.item()


def join(*, kind: str, device: str) -> tuple[DistributedContext, str]:
    """Join the processes that torchrun started, if any; return the context and this process's device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return DistributedContext(), device
    if device == "mps":
        raise TrainingError("several processes cannot share device 'mps'; expected --device cpu or cuda")
    rank = int(os.environ["RANK"])
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", rank=rank, world_size=size)
    return DistributedContext(rank=rank, size=size, kind=kind), device


def leave() -> None:
    """Leave the process group, if there is one. No model of the group may be in use any more.

    The threads of a group that still exists when Python exits abort the whole program.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a stored state of whole tensors into an optimizer, split where its weights are split."""
    optimizer.load_state_dict(dict(state))
    for parameter, held in optimizer.state.items():
        if _is_part(parameter):
            for name, value in held.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    held[name] = _part_like(parameter, value)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, change) for part in value]
    return value


def _is_part(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")


def _whole(value: Any) -> Tensor:
    return value.full_tensor().cpu() if _is_part(value) else value


def _part_like(parameter: Any, value: Tensor) -> Tensor:
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415 - see wrapped

    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
