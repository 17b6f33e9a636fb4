"""One process or several that train together: what they exchange, and how the model is wrapped for it.

Every process computes its own rows of the same batch and all take the same step. "ddp": each holds the
whole model. "fsdp2": each holds a part of every weight, gathered block by block. Started by torchrun, which
names the processes in the environment.
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
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether weights are held in parts."""
        return self.size > 1 and self.kind == "fsdp2"

    def wrapped(self, forward: TrainingForward, *, device: str) -> nn.Module:
        """Return what training calls; with "fsdp2" the parameters of the model become parts of their own."""
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
        # Buffers are tables that follow from the config. The setting has another name from torch 2.13 on.
        names = inspect.signature(wrapper).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        settings: dict[str, Any] = {buffers: False}
        return wrapper(forward, device_ids=None if index is None else [index], **settings)

    @contextlib.contextmanager
    def exchanging(self, forward: nn.Module, *, last: bool) -> Iterator[None]:
        """Exchange gradients on the way back of the last part of a step alone."""
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

    def total(self, value: float) -> float:
        """Return the sum of all processes' values."""
        return value if self.size == 1 else self._reduced(value, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - the flag is the value
        """Return whether it holds for any process."""
        return flag if self.size == 1 else self._reduced(float(flag), dist.ReduceOp.MAX) > 0.0

    def agreed(self, value: float) -> float:
        """Return the first process's value, so that all decide alike."""
        return value if self.size == 1 else self._reduced(value if self.leads else 0.0, dist.ReduceOp.SUM)

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            dist.barrier()

    def whole(self, state: Any) -> Any:
        """Return a state in which every part of a weight is the whole weight; all processes must call it."""
        return _mapped(state, _whole) if self.shards else state

    def _reduced(self, value: float, operation: Any) -> float:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        held = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(held, op=operation)
        return held.item()


def join(*, kind: str, device: str) -> tuple[DistributedContext, str]:
    """Join the processes that torchrun started, if it did; return the world and this process's device."""
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
    """Leave the group, if there is one. Nobody may hold a model of it any more.

    A group that is still held when Python ends has threads that end the whole program with an abort.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put a stored state of whole tensors into an optimizer, in parts where its weights are in parts."""
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
