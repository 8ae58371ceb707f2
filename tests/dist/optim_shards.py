"""Run under torchrun with two ranks: FSDP2 against one process, every shardable optimizer. Exits non-zero on failure."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import isoflop.optim as optim
from isoflop.optim.method import Method
from optim_classes import CLASSES

STEPS = 5
ARGUMENTS: dict[str, dict[str, Any]] = {
    "AdEMAMix": {"betas": (0.9, 0.95, 0.99), "alpha_warmup": 4, "beta3_warmup": 4},
    "MARS": {"gamma": 0.2},
    "Muon": {"ns_dtype": torch.float64},
    "SOAP": {"precondition_frequency": 2},
    "Shampoo": {"betas": (0.9, 0.95), "precondition_frequency": 2, "grafting": "adam"},
    "ScheduleFreeRAdam": {"betas": (0.9, 0.9)},
}


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 7, bias=False), nn.Tanh(), nn.Linear(7, 5)]
    return nn.Sequential(*layers).to(torch.float64)


def build(net: nn.Module, cls: type[Method], arguments: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer; Muon as its part builds it, with AdamW for what is no matrix."""
    named = list(net.named_parameters())
    if cls is not optim.Muon:
        return cls(named, **arguments)
    matrices, rest = ([pair for pair in named if (pair[1].ndim == 2) == wanted] for wanted in (True, False))
    return optim.Chain([cls(matrices, **arguments), torch.optim.AdamW(rest, lr=0.01, fused=True)])


def train(net: nn.Module, cls: type[Method], arguments: dict[str, Any]) -> torch.optim.Optimizer:
    optimizer = build(net, cls, arguments)
    for t in range(STEPS):
        generator = torch.Generator().manual_seed(t)
        x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        net(x).square().mean().backward()  # every rank sees the whole batch: the mean over ranks is the same gradient
        optimizer.step()
    return optimizer


def main() -> int:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    failures: list[str] = []
    for name, cls in CLASSES.items():
        legal = inspect.signature(cls).parameters
        arguments = {k: v for k, v in {"lr": 0.01, "weight_decay": 0.1}.items() if k in legal} | ARGUMENTS.get(name, {})
        sharded = model()
        for layer in sharded:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(sharded)
        if not cls.shardable:
            try:
                cls(sharded.named_parameters(), **arguments)
                failures.append(f"{name}: took sharded parameters although it cannot")
            except ValueError as error:
                if "sharded" not in str(error):
                    failures.append(f"{name}: {error}")
            continue
        alone = model()
        train(alone, cls, arguments)
        optimizer = train(sharded, cls, arguments)
        for (n, p), q in zip(sharded.named_parameters(), alone.parameters(), strict=True):
            assert isinstance(p, DTensor)
            error = (p.full_tensor() - q).abs().max().item()
            if not error < 1e-9:
                failures.append(f"{name}: {n} off by {error:.1e}")
        again = model()
        for layer in again:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(again)
        build(again, cls, arguments).load_state_dict(optimizer.state_dict())
        if dist.get_rank() == 0:
            print(name, "ok" if not failures else failures[-1], flush=True)
    dist.destroy_process_group()
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
