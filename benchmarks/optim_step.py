"""CPU seconds of one optimizer step beside torch's and other packages' optimizers, on the matrices of a small GPT.

    python benchmarks/optim_step.py [--smoke] [--only NAME ...] [--peers] [--repeats 5] [--json FILE]

Shapes: 4 x [384, 384], 4 x [1536, 384], 4 x [384, 1536], embedding [8192, 384], 9 x [384]: 8.46 million parameters, one
thread, float32. Candidates are interleaved: every repeat times each of them once, so that a disturbance hits all alike;
medians are reported. Time is the process's own CPU time. ``--peers`` adds packages that are installed here (pip install
heavyball pytorch-optimizer schedulefree lion-pytorch, in an environment of their own); they never enter isoflop.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import isoflop.optim as optim

SHAPES = [(384, 384)] * 4 + [(1536, 384)] * 4 + [(384, 1536)] * 4 + [(8192, 384)] + [(384,)] * 9
SMOKE = [(24, 24), (96, 24), (24, 96), (512, 24), (24,)]
ANCHOR = "torch AdamW fused"

Make = Callable[[list[torch.nn.Parameter]], Any]


def blocks_of(params: list[torch.nn.Parameter]) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """(matrices of the blocks, embedding and vectors)."""
    inner = [p for p in params if p.ndim == 2 and p.shape[0] < 5 * p.shape[1]]
    return inner, [p for p in params if not any(p is q for q in inner)]


def muon(cls: Any) -> Make:
    def make(params: list[torch.nn.Parameter]) -> Any:
        inner, rest = blocks_of(params)
        return optim.Chain([cls(inner, lr=1e-3), torch.optim.AdamW(rest, fused=True)])

    return make


def ours(name: str, compile: bool = False, **arguments: Any) -> Make:
    def make(params: list[torch.nn.Parameter]) -> Any:
        optimizer = getattr(optim, name)(params, **arguments)
        return optimizer.compile() if compile else optimizer

    return make


class PublishedSOAP:
    """The products of SOAP's published algebra, 10mn(m + n) FLOPs a matrix, and nothing else: a bound for its time."""

    def __init__(self, params: list[torch.nn.Parameter], largest: int = 2048) -> None:
        self.params = [p for p in params if p.ndim == 2]
        self.bases = [[torch.eye(n) if n <= largest else None for n in p.shape] for p in self.params]

    def step(self) -> None:
        for p, (left, right) in zip(self.params, self.bases, strict=True):
            g = p.grad
            assert g is not None
            for q, gram in ((left, lambda g=g: g @ g.T), (right, lambda g=g: g.T @ g)):
                if q is not None:
                    gram().lerp_(q, 0.95)
            for back in (False, True, True, False):  # gradient there, step and momentum back, momentum there
                x = g if left is None else (left if back else left.T) @ g
                x = x if right is None else x @ (right.T if back else right)


def candidates(peers: bool) -> dict[str, Make]:
    found: dict[str, Make] = {
        ANCHOR: lambda params: torch.optim.AdamW(params, fused=True),
        "torch AdamW foreach": lambda params: torch.optim.AdamW(params, foreach=True),
        "torch Muon + AdamW fused": muon(torch.optim.Muon),
        "Muon + AdamW fused": muon(optim.Muon),
        "SOAP published products": PublishedSOAP,
        "SOAP": ours("SOAP", max_precond_dim=2048),
        "SOAP bf16 rotations": ours("SOAP", max_precond_dim=2048, rotation_dtype=torch.bfloat16),
        "SOAP one-sided": ours("SOAP", max_precond_dim=2048, one_sided=True),
        "Adafactor": ours("Adafactor"),
        "Adalayer": ours("Adalayer"),
    }
    elementwise = ("Lion", "AdEMAMix", "SimplifiedAdEMAMix", "ScheduleFreeAdamW", "GPA", "MARS", "SophiaG")
    for name in elementwise:
        found[name] = ours(name)
        found[f"{name} compiled"] = ours(name, compile=True)
    return found | (installed_peers() if peers else {})


def installed_peers() -> dict[str, Make]:
    """Other packages' forms of the same methods, those that are installed."""
    wanted = {
        "schedulefree AdamW": ("schedulefree", "AdamWScheduleFree", {}),
        "lion-pytorch": ("lion_pytorch", "Lion", {}),
        "pytorch_optimizer SOAP": ("pytorch_optimizer", "SOAP", {"max_precondition_dim": 2048}),
        "pytorch_optimizer AdEMAMix": ("pytorch_optimizer", "AdEMAMix", {}),
        "pytorch_optimizer MARS": ("pytorch_optimizer", "MARS", {}),
        "heavyball SOAP": ("heavyball", "ForeachSOAP", {"max_precond_dim": 2048}),
    }
    found: dict[str, Make] = {}
    for label, (module, cls, arguments) in wanted.items():
        try:
            made = getattr(importlib.import_module(module), cls)
        except (ImportError, AttributeError):
            print(f"{label}: not installed")
            continue

        def make(params: list[torch.nn.Parameter], made: Any = made, arguments: dict[str, Any] = arguments) -> Any:
            optimizer = made(params, **arguments)
            if hasattr(optimizer, "train"):
                optimizer.train()
            return optimizer

        found[label] = make
    return found


def state_bytes(optimizer: Any) -> int:
    states = getattr(optimizer, "state", {}).values()
    return sum(t.numel() * t.element_size() for s in states for t in s.values() if isinstance(t, torch.Tensor))


def measure(makes: dict[str, Make], shapes: list[tuple[int, ...]], repeats: int, period: int) -> dict[str, Any]:
    """Per candidate CPU seconds of a normal step (median) and of the refresh that ends a period (SOAP)."""
    generator = torch.Generator().manual_seed(0)
    live = {}
    for label, make in makes.items():
        params = [torch.nn.Parameter(0.02 * torch.randn(s, generator=generator)) for s in shapes]
        live[label] = (make(params), params)
    steps: dict[str, list[float]] = {label: [] for label in makes}
    refreshes: dict[str, list[float]] = {label: [] for label in makes}
    for t in range(repeats * period + 1):
        for label, (optimizer, params) in live.items():
            refreshing = label.startswith("SOAP") and "products" not in label
            if t > repeats + 2 and not refreshing:
                continue
            for p in params:
                p.grad = 1e-3 * torch.randn(p.shape, generator=generator)
            start = time.process_time()
            optimizer.step()
            spent = time.process_time() - start
            if refreshing and t and t % period == 0:
                refreshes[label].append(spent)
            elif t > 1:  # the first steps allocate, compile and begin bases
                steps[label].append(spent)
    anchor = statistics.median(steps[ANCHOR]) if ANCHOR in steps else float("nan")
    rows = {}
    for label, (optimizer, params) in live.items():
        median = statistics.median(steps[label])
        rows[label] = {
            "seconds": median,
            "fastest": min(steps[label]),
            "times_fused_adamw": median / anchor,
            "refresh_seconds": statistics.median(refreshes[label]) if refreshes[label] else None,
            "state_bytes_a_parameter": state_bytes(optimizer) / sum(p.numel() for p in params),
        }
    return rows


def environment() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, one repeat: only that everything runs")
    parser.add_argument("--only", nargs="*", help="candidates whose name contains one of these")
    parser.add_argument("--peers", action="store_true", help="also other packages' optimizers, if installed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    makes = candidates(options.peers)
    if options.only:
        makes = {k: v for k, v in makes.items() if k == ANCHOR or any(word in k for word in options.only)}
    if options.smoke:
        makes = {k: v for k, v in makes.items() if "compiled" not in k}
    rows = measure(makes, SMOKE if options.smoke else SHAPES, 1 if options.smoke else options.repeats, 10)
    where = environment()
    if where["load"] > 0.5 and not options.smoke:
        print(f"the machine is busy (load {where['load']:.1f}): compare ratios only")
    print(f"{'optimizer':32} {'ms':>9} {'x fused':>8} {'refresh ms':>11} {'bytes/param':>12}")
    for label, row in rows.items():
        refresh = f"{1e3 * row['refresh_seconds']:.1f}" if row["refresh_seconds"] else ""
        milliseconds, times, stored = 1e3 * row["seconds"], row["times_fused_adamw"], row["state_bytes_a_parameter"]
        print(f"{label:32} {milliseconds:9.2f} {times:8.2f} {refresh:>11} {stored:12.2f}")
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
