"""Tensors of which each process may hold a part (FSDP2's DTensors): what lies here, what is gathered."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from .averages import wide


def whole(t: Tensor) -> Tensor:
    """All of a DTensor, gathered; any other tensor itself."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def whole_like(shard: Tensor, p: Tensor) -> Tensor:
    """All of the tensor of which ``shard`` is the part that belongs to the shard of ``p``."""
    if not isinstance(p, DTensor):
        return shard
    shape, stride = p.shape, p.stride()
    return DTensor.from_local(shard, p.device_mesh, p.placements, shape=shape, stride=stride).full_tensor()


def descend(p: Tensor, direction: Tensor, keep: float, step: float, root: Tensor | None = None) -> None:
    """p <- keep p - step direction; a DTensor takes its shard of the whole ``direction``.

    ``root``: divides the direction and broadcasts to it; not for DTensors.
    """
    if isinstance(p, DTensor):
        direction = distribute_tensor(direction, p.device_mesh, p.placements, src_data_rank=None).to_local()
    here = local(p)
    dtype = torch.promote_types(direction.dtype, wide(here.dtype))
    master = here.to(dtype)
    if keep != 1:
        master.mul_(keep)
    if root is None:
        master.sub_(direction, alpha=step)
    else:
        master.addcdiv_(direction, root, value=-step)
    if master is not here:
        here.copy_(master)


def over_shards(total: Tensor, p: Tensor) -> Tensor:
    """The sum over all shards of ``p`` of a number that each computed from its own."""
    if isinstance(p, DTensor):
        for d, placement in enumerate(p.placements):
            if placement.is_shard():
                dist.all_reduce(total, group=p.device_mesh.get_group(d))
    return total


def local(t: Tensor) -> Tensor:
    """The shard of a DTensor that lies here; any other tensor itself."""
    return t.to_local() if isinstance(t, DTensor) else t
