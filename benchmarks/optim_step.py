"""CPU seconds of one optimizer step beside torch's and other packages' optimizers, on the matrices of a small GPT.

    python benchmarks/optim_step.py [--smoke] [--only NAME ...] [--peers] [--repeats 5] [--json FILE]

Shapes: 4 x [384, 384], 4 x [1536, 384], 4 x [384, 1536], embedding [8192, 384], 9 x [384]: 8.46 million parameters, one
thread, float32. Candidates are interleaved: every repeat times each of them once, so that a disturbance hits all alike;
medians are reported. Time is the process's own CPU time. ``--peers`` adds packages that are installed here (pip install
heavyball pytorch-optimizer schedulefree lion-pytorch, in an environment of their own), ``--official`` the authors'
files from a folder of yours; neither ever enters isoflop.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import isoflop.optim as optim

SHAPES = [(384, 384)] * 4 + [(1536, 384)] * 4 + [(384, 1536)] * 4 + [(8192, 384)] + [(384,)] * 9
SMOKE = [(24, 24), (96, 24), (24, 96), (512, 24), (24,)]
ANCHOR = "torch AdamW fused"
ELEMENTWISE = (
    "Lion",
    "AdEMAMix",
    "SimplifiedAdEMAMix",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "ScheduleFreeRAdam",
    "GPA",
    "MARS",
    "SophiaG",
)
SOAP_ARGUMENTS: dict[str, Any] = {"max_precond_dim": 2048}
HEAVYBALL_ARGUMENTS = SOAP_ARGUMENTS | {
    "precondition_frequency": 10,
    "use_precond_schedule": False,
    "merge_dims": False,
}
SHAMPOO_ARGUMENTS: dict[str, Any] = {
    "betas": (0.9, 0.95),
    "precondition_frequency": 10,
    "max_preconditioner_dim": 2048,
}
PUBLISHED = "SOAP's published products"
REFRESHING = ("SOAP", "Shampoo")
"""Methods with a normal step and, every ``period`` steps, a costlier one."""

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
        optimizer.check_gradients = False  # as in a training loop, and as the others
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


def candidates() -> dict[str, Make]:
    found: dict[str, Make] = {
        ANCHOR: lambda params: torch.optim.AdamW(params, fused=True),
        "torch AdamW foreach": lambda params: torch.optim.AdamW(params, foreach=True),
        "Muon + AdamW fused": muon(optim.Muon),
        PUBLISHED: PublishedSOAP,
        "SOAP": ours("SOAP", **SOAP_ARGUMENTS),
        "SOAP bf16 rotations": ours("SOAP", **SOAP_ARGUMENTS, variant=optim.SOAPVariant(rotation_dtype=torch.bfloat16)),
        "SOAP Cholesky refresh": ours("SOAP", **SOAP_ARGUMENTS, variant=optim.SOAPVariant(refresh="cholesky")),
        "SOAP one-sided": ours("SOAP", **SOAP_ARGUMENTS, variant=optim.SOAPVariant(one_sided=True)),
        "Shampoo": ours("Shampoo", merge_dims=False, **SHAMPOO_ARGUMENTS),
        "Adafactor": ours("Adafactor"),
        "Adalayer": ours("Adalayer"),
    }
    for name in ELEMENTWISE:
        found[name] = ours(name)
        found[f"{name} compiled"] = ours(name, compile=True)
    return found


@dataclass(frozen=True)
class Peer:
    """Another implementation of one of our candidates.

    ``official``: the authors' own, which ours must not exceed. ``named``: its groups must name their parameters.
    """

    label: str
    ours: str
    module: str
    cls: str
    arguments: dict[str, Any] = field(default_factory=dict)
    official: bool = False
    named: bool = False


PEERS = [
    Peer("official SOAP", "SOAP", "soap", "SOAP", SOAP_ARGUMENTS, True),
    Peer("official Lion", "Lion", "lion_official", "Lion", {}, True),
    Peer("official AdEMAMix", "AdEMAMix", "ademamix", "AdEMAMix", {}, True),
    Peer("official Simplified-AdEMAMix", "SimplifiedAdEMAMix", "simplified_AdEMAMix", "SimAdEMAMix", {}, True),
    Peer("official MARS", "MARS", "mars", "MARS", {}, True),
    Peer("official Sophia", "SophiaG", "sophia", "SophiaG", {}, True),
    Peer("official Shampoo", "Shampoo", "distributed_shampoo", "DistributedShampoo", SHAMPOO_ARGUMENTS, True),
    Peer("official Schedule-Free AdamW", "ScheduleFreeAdamW", "schedulefree", "AdamWScheduleFree", {}, True),
    Peer("official Schedule-Free SGD", "ScheduleFreeSGD", "schedulefree", "SGDScheduleFree", {"lr": 1.0}, True),
    Peer("official Schedule-Free RAdam", "ScheduleFreeRAdam", "schedulefree", "RAdamScheduleFree", {}, True),
    Peer("official GPA", "GPA", "gpa.gpa_adamw", "GPAAdamW", {"lr": 1e-3}, True),
    Peer("official Adalayer", "Adalayer", "olmo_optim", "AdalayerW", {}, True, named=True),
    Peer("official Adafactor", "Adafactor", "olmo_optim", "AdafactorW", {}, True, named=True),
    Peer("official Muon", "Muon + AdamW fused", "keller_muon", "SingleDeviceMuon", {}, True),
    Peer("torch Muon", "Muon + AdamW fused", "torch.optim", "Muon"),
    Peer("torch Adafactor", "Adafactor", "torch.optim", "Adafactor"),
    Peer("lion-pytorch", "Lion", "lion_pytorch", "Lion"),
    Peer("pytorch_optimizer SOAP", "SOAP", "pytorch_optimizer", "SOAP", {"max_precondition_dim": 2048}),
    Peer("pytorch_optimizer AdEMAMix", "AdEMAMix", "pytorch_optimizer", "AdEMAMix"),
    Peer("pytorch_optimizer MARS", "MARS", "pytorch_optimizer", "MARS"),
    Peer("heavyball SOAP", "SOAP", "heavyball", "SOAP", HEAVYBALL_ARGUMENTS),
]


def installed(peers: list[Peer]) -> dict[str, Peer]:
    """By label, those that can be imported here."""
    found = {}
    for peer in peers:
        try:
            getattr(importlib.import_module(peer.module), peer.cls)
        except (ImportError, AttributeError) as error:
            print(f"{peer.label}: not here ({error})")
        else:
            found[peer.label] = peer
    return found


def maker(peer: Peer) -> Make:
    """Matrices of the blocks go to a Muon, everything else to fused AdamW; other methods take everything."""
    module = importlib.import_module(peer.module)
    if peer.module == "heavyball":
        module.utils.compile_mode = None  # its autotuner does not finish on a CPU
    made = getattr(module, peer.cls)
    if "Muon" in peer.cls:
        return muon(made)

    def make(params: list[torch.nn.Parameter]) -> Any:
        names = [f"matrix{i}" for i in range(len(params))]
        groups = [{"params": params, "param_names": names}] if peer.named else params
        optimizer = made(groups, **peer.arguments)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    return make


def state_bytes(optimizer: Any) -> int:
    states = getattr(optimizer, "state", {}).values()
    return sum(t.numel() * t.element_size() for s in states for t in s.values() if isinstance(t, torch.Tensor))


def measure(makes: dict[str, Make], shapes: list[tuple[int, ...]], repeats: int, period: int) -> dict[str, Any]:
    """Per candidate CPU seconds of a normal step and, where one step of every period is a refresh, of that: medians.

    The refreshes are the costliest steps: not all count from the same one.
    """
    generator = torch.Generator().manual_seed(0)
    live = {}
    for label, make in makes.items():
        params = [torch.nn.Parameter(0.02 * torch.randn(s, generator=generator)) for s in shapes]
        live[label] = (make(params), params)
    steps: dict[str, list[float]] = {label: [] for label in makes}
    for t in range(repeats * period + 2):
        for label, (optimizer, params) in live.items():
            if t > repeats + 2 and not refreshes(label):
                continue
            for p in params:
                p.grad = 1e-3 * torch.randn(p.shape, generator=generator)
            start = time.process_time()
            optimizer.step()
            spent = time.process_time() - start
            if t > 1:  # the first steps allocate, compile and begin bases
                steps[label].append(spent)
    anchor = statistics.median(steps[ANCHOR]) if ANCHOR in steps else float("nan")
    rows = {}
    for label, (optimizer, params) in live.items():
        spent_on = sorted(steps[label])
        normal, costly = (spent_on[:-repeats], spent_on[-repeats:]) if refreshes(label) else (spent_on, [])
        median = statistics.median(normal)
        rows[label] = {
            "seconds": median,
            "fastest": normal[0],
            "times_fused_adamw": median / anchor,
            "refresh_seconds": statistics.median(costly) if costly else None,
            "state_bytes_a_parameter": state_bytes(optimizer) / sum(p.numel() for p in params),
        }
    return rows


def refreshes(label: str) -> bool:
    """Whether one step in a period is costlier."""
    return any(word in label for word in REFRESHING) and label != PUBLISHED


def comparisons(rows: dict[str, Any], peers: dict[str, Peer]) -> dict[str, tuple[float, float]]:
    """Ratio of ours to the other's, and its gate (0: none), by what is compared; each side's fastest form."""
    found: dict[str, tuple[float, float]] = {}

    def compare(ours: str, other: str, gate: float, what: str = "seconds") -> None:
        mine = [rows[label][what] for label in (ours, f"{ours} compiled") if label in rows]
        if mine and other in rows and rows[other][what] and min(mine):
            name = f"{ours} / {other}" + ("" if what == "seconds" else ", refresh")
            found[name] = (min(mine) / rows[other][what], gate)

    compare("SOAP", PUBLISHED, 0.65)
    for label in ("Lion", "AdEMAMix", "ScheduleFreeAdamW"):
        compare(label, ANCHOR, 2.0)
    for label, peer in peers.items():
        compare(peer.ours, label, 1.0 if peer.official or "SOAP" in label else 0.0)
        if peer.ours in REFRESHING:
            compare(peer.ours, label, (0.9 if peer.official else 0.0), "refresh_seconds")
    return found


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
    parser.add_argument("--official", type=Path, help="folder of the authors' files, named as PEERS says")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.official:
        sys.path.append(str(options.official.resolve()))
    peers = installed(PEERS) if options.peers or options.official else {}
    makes = candidates() | {label: maker(peer) for label, peer in peers.items()}
    if options.only:
        makes = {k: v for k, v in makes.items() if k == ANCHOR or any(word in k for word in options.only)}
    if options.smoke:
        makes = {k: v for k, v in makes.items() if "compiled" not in k}
    where = environment()
    rows = measure(makes, SMOKE if options.smoke else SHAPES, 1 if options.smoke else options.repeats, 10)
    if where["load"] > 0.5 and not options.smoke:
        print(f"the machine is busy (load {where['load']:.1f}): compare ratios only")
    print(f"{'optimizer':32} {'ms':>9} {'x fused':>8} {'refresh ms':>11} {'bytes/param':>12}")
    for label, row in rows.items():
        refresh = f"{1e3 * row['refresh_seconds']:.1f}" if row["refresh_seconds"] else ""
        milliseconds, times, stored = 1e3 * row["seconds"], row["times_fused_adamw"], row["state_bytes_a_parameter"]
        print(f"{label:32} {milliseconds:9.2f} {times:8.2f} {refresh:>11} {stored:12.2f}")
    compared = {} if options.smoke else comparisons(rows, peers)
    for name, (ratio, gate) in compared.items():
        verdict = "" if not gate else f"gate {gate}: {'passed' if ratio <= gate else 'MISSED'}"
        print(f"{name:60} {ratio:6.2f}  {verdict}")
    if options.json:
        content = {"environment": where, "rows": rows, "compared": compared}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
