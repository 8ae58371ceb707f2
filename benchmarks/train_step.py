"""Seconds of one training step: ours beside transformers' Llama of identical shape, eager and compiled.

    python benchmarks/train_step.py [--shape demo middle large gpt] [--threads 2] [--device cuda] [--quick]

The shape ``gpt`` (124M parameters, for GPUs) is also timed beside a GPT as people write it by hand (``plain_gpt.py``),
whose feed-forwards have the same products and which has learned positions besides.

Every variant lives in a process of its own, bound to the same cores, once with the default allocator (in which ours
keeps its pages by itself) and once with one tuned to keep them (environment variables of glibc, set before the process
starts). They take turns, a few steps each, and the medians are compared, each side in its own better setting. Needs a
quiet machine: while all wait, the processor must idle, and what other processes took during a turn is recorded. The
peer trains as its users do: fp32 weights, autocast to bf16 (plain fp32 in the demo's shape), fused AdamW. It is skipped
where transformers is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isoflop.core.device import KINDS
from isoflop.core.files import write_json
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.store.environment import environment

RESULTS = Path(__file__).parent / "results"
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "60000000000", "MALLOC_TOP_PAD_": "268435456"}
ALLOCATORS = {"default": {}, "tuned": TUNED}
VARIANTS = ("ours eager", "ours compiled", "llama eager", "llama compiled", "plain eager", "plain compiled")
GATES = {"eager": 1.3, "compiled": 1.0}
"""Least ratio of the peer's seconds to ours on the middle shape."""


@dataclass(frozen=True)
class Shape:
    """A model with SwiGLU and as many key-value heads as heads, and its micro-batch."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocab: int
    length: int
    batch: int
    tied: bool
    precision: str


SHAPES = {
    "demo": Shape(2, 64, 4, 176, 1024, 128, 8, False, "fp32"),
    "middle": Shape(6, 384, 6, 1024, 8192, 256, 16, True, "bf16"),
    "large": Shape(12, 512, 8, 1376, 8192, 512, 8, True, "bf16"),
    "gpt": Shape(12, 768, 12, 2048, 50304, 1024, 16, True, "bf16"),
}
BY_HAND = {"gpt"}
"""Shapes that are also timed beside ``plain_gpt.py``."""


# ---------------------------------------------------------------- in a worker: one variant


def ours(shape: Shape, device: str, compile_: bool) -> tuple[Any, Callable[[Any], Any]]:
    """Model, and tokens (batch, length + 1) -> mean loss."""
    from isoflop.core.context import Context
    from isoflop.core.contracts import TokenBatch
    from isoflop.core.registry import get
    from isoflop.core.rng import Rng

    ctx = Context(
        rng=Rng(0),
        cache=Path(),
        tokenizer=get("tokenizer", "bytes")(),  # type: ignore[arg-type]
        vocab_size=shape.vocab,
        batch=shape.batch,
        length=shape.length,
        device=device,
        precision=shape.precision,
        compile=compile_,
    )
    model = part_of(shape).build(ctx)
    ctx = ctx.having(models={"policy": model})
    objective = get("objective", "next_token")().build(ctx)  # type: ignore[attr-defined]

    def loss(tokens: Any) -> Any:
        batch = TokenBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), 0)
        return objective.loss(batch).total / batch.units

    return model, loss


def part_of(shape: Shape) -> TransformerPart:
    return TransformerPart.model_validate(
        {
            "d_model": shape.width,
            "layers": shape.layers,
            "mixer": {"name": "attention", "heads": shape.heads},
            "feed_forward": {"name": "swiglu", "hidden": shape.hidden},
            "tied": shape.tied,
        }
    )


def llama(shape: Shape, device: str, compile_: bool) -> tuple[Any, Callable[[Any], Any]]:
    """Model, and tokens (batch, length + 1) -> mean loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.length,
        tie_word_embeddings=shape.tied,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).to(device)
    called = torch.compile(model) if compile_ else model

    def loss(tokens: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=shape.precision == "bf16"):
            return called(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss

    return model, loss


def plain(shape: Shape, device: str, compile_: bool) -> tuple[Any, Callable[[Any], Any]]:
    """Model, and tokens (batch, length + 1) -> mean loss."""
    import torch

    from plain_gpt import PlainGPT

    model = PlainGPT(shape.vocab, shape.length, shape.layers, shape.width, shape.heads).to(device)
    called = torch.compile(model) if compile_ else model

    def loss(tokens: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=shape.precision == "bf16"):
            return called(tokens[:, :-1], tokens[:, 1:])

    return model, loss


SIDES = {"ours": ours, "llama": llama, "plain": plain}


def worker(variant: str, shape: Shape, device: str, threads: int) -> None:
    """Answer each line on stdin, a number of steps, with their seconds and the process's processor time."""
    import torch

    from isoflop.ledger.peak import wait
    from isoflop.train.memory import kept_memory

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    side, _, mode = variant.partition(" ")
    model, loss = SIDES[side](shape, device, mode == "compiled")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(0, shape.vocab, (shape.batch, shape.length + 1), device=device)

    def step() -> float:
        began = time.perf_counter()
        loss(tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wait(device)
        return time.perf_counter() - began

    with kept_memory() if side == "ours" else nullcontext():  # as `isoflop train` does
        first = [step() for _ in range(3)]
        say({"first": first[0], "parameters": sum(p.numel() for p in model.parameters()), "cpu": time.process_time()})
        for line in sys.stdin:
            say({"seconds": [step() for _ in range(int(line))], "cpu": time.process_time()})


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


# ---------------------------------------------------------------- in the parent: turns and comparison


class Turns:
    """One variant's process, started with its allocator's environment and bound to ``threads`` cores."""

    def __init__(self, variant: str, allocator: str, shape: str, device: str, threads: int) -> None:
        self.key, self.seconds, self.others = (variant, allocator), [], []
        self.threads = threads
        bound = {"OMP_NUM_THREADS": str(threads), "OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
        job = [sys.executable, __file__, "--worker", variant, "--shape", shape, "--device", device]
        self._process = subprocess.Popen(
            [*job, "--threads", str(threads)],
            env={**os.environ, **bound, **ALLOCATORS[allocator]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started = self._answer()
        self._cpu: float = self.started["cpu"]

    def take(self, steps: int) -> None:
        """Run some steps while everybody else waits."""
        assert self._process.stdin is not None
        busy, began = busy_seconds(), time.perf_counter()
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._answer()
        own, wall = answer["cpu"] - self._cpu, time.perf_counter() - began
        self._cpu = answer["cpu"]
        self.seconds += answer["seconds"]
        self.others.append(max(0.0, busy_seconds() - busy - own) / wall)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' with the allocator '.join(self.key)} ended without an answer")
        return json.loads(line)  # type: ignore[no-any-return]


@contextmanager
def running(variants: list[str], shape: str, device: str, threads: int) -> Iterator[list[Turns]]:
    turns = []
    try:
        for variant in variants:
            for allocator in ALLOCATORS if device == "cpu" else ["default"]:
                turns.append(Turns(variant, allocator, shape, device, threads))
        yield turns
    finally:
        for turn in turns:
            turn.close()


def busy_seconds() -> float:
    """Processor seconds that all processes have taken since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def idle_share(seconds: float = 1.0) -> float:
    """Share of one core that is in use while nothing of ours runs."""
    before = busy_seconds()
    time.sleep(seconds)
    return (busy_seconds() - before) / seconds


def measure(name: str, device: str, threads: int, repeats: int, steps: int, peer: bool) -> dict[str, Any]:
    """All variants of one shape, in turns."""
    from isoflop.ledger.peak import matmul_rate

    shape = SHAPES[name]
    tokens = shape.batch * shape.length
    flops = part_of(shape).work(shape.batch, shape.length, shape.vocab).total.flops
    rate = max(matmul_rate(device, shape.precision, threads) for _ in range(3))
    sides = ["ours", *(["llama"] if peer else []), *(["plain"] if name in BY_HAND else [])]
    variants = [variant for variant in VARIANTS if variant.split()[0] in sides]
    with running(variants, name, device, threads) as turns:
        before = idle_share()
        for _ in range(repeats):
            for turn in turns:
                turn.take(steps)
    sizes = [turn.started["parameters"] for turn in turns]
    if max(sizes) > 1.01 * min(sizes):  # learned positions are less than a hundredth
        raise SystemExit(f"{name}: the models differ in size: {sizes}")
    rows = []
    for turn in turns:
        seconds = statistics.median(turn.seconds)
        rows.append(
            {
                "variant": turn.key[0],
                "allocator": turn.key[1],
                "seconds": seconds,
                "fastest": min(turn.seconds),
                "steps": len(turn.seconds),
                "tokens_per_second": tokens / seconds,
                "flops_per_second": flops / seconds,
                "share_of_matmul_rate": flops / seconds / rate,
                "first_step_seconds": turn.started["first"],
                "other_processes_cores": max(turn.others),
            }
        )
    return {
        "shape": {"name": name, **asdict(shape)},
        "parameters": sizes[0],
        "model_flops": flops,
        "matmul_flops_per_second": rate,
        "busy_cores_before": before,
        "rows": rows,
        "ratios": ratios(rows),
    }


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Each peer's seconds over ours, each in its better allocator."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["variant"]] = min(best.get(row["variant"], float("inf")), row["seconds"])
    found = {}
    for side in sorted({variant.split()[0] for variant in best} - {"ours"}):
        for mode in GATES:
            found[f"{side} {mode}"] = best[f"{side} {mode}"] / best[f"ours {mode}"]
        found[f"{side} best"] = min(best[f"{side} {mode}"] for mode in GATES) / min(
            best[f"ours {mode}"] for mode in GATES
        )
    return found


def show(result: dict[str, Any], threads: int, idle: bool) -> None:
    shape = result["shape"]
    print(
        f"\n{shape['name']}: {result['parameters']:,} parameters, {shape['layers']} layers, width {shape['width']}, "
        f"{shape['batch']} x {shape['length']} tokens, {shape['precision']}, {threads} threads; "
        f"matmul {result['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':16}{'allocator':>10}{'ms a step':>11}{'tokens/s':>10}{'of matmul rate':>16}{'others':>8}")
    for row in result["rows"]:
        print(
            f"{row['variant']:16}{row['allocator']:>10}{1e3 * row['seconds']:11.1f}{row['tokens_per_second']:10,.0f}"
            f"{row['share_of_matmul_rate']:16.0%}{row['other_processes_cores']:8.2f}"
        )
    for peer, ratio in result["ratios"].items():
        gate = GATES.get(peer.removeprefix("llama ")) if shape["name"] == "middle" else None
        verdict = "" if gate is None else f"  gate {gate}: {'passed' if ratio >= gate else 'MISSED'}"
        print(f"{ratio:.2f}x the speed of {peer}{verdict}{'' if idle else '  (the machine was busy)'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["demo", "middle", "large"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=KINDS, default="cpu")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each variant")
    parser.add_argument("--quick", action="store_true", help="two turns of two steps")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine too, and say so in the result")
    parser.add_argument("--no-peer", action="store_true", help="measure without transformers' Llama")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/train_step_DEVICE.json")
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, SHAPES[args.shape[0]], args.device, args.threads)
        return 0
    busy = idle_share(2.0)
    if busy > 0.1 and not args.busy:
        print(f"other processes use {busy:.2f} cores: times would mean little (--busy measures nevertheless)")
        return 2
    peer = not args.no_peer and importlib.util.find_spec("transformers") is not None
    if not peer:
        print("ours alone" if args.no_peer else "transformers is not installed (extra `hf`): ours alone")
    results = []
    for name in args.shape:
        steps = 20 if name == "demo" else 2
        repeats = 2 if args.quick else args.repeats
        results.append(measure(name, args.device, args.threads, repeats, steps, peer))
        idle = busy <= 0.1 and all(row["other_processes_cores"] < 0.1 for row in results[-1]["rows"])
        results[-1]["idle"] = idle
        show(results[-1], args.threads, idle)
    out = args.out or RESULTS / f"train_step_{args.device}.json"
    write_json(out, {**about(args.threads, args.device), "results": results})
    print(f"\n{out}")
    return 0


def about(threads: int, device: str) -> dict[str, Any]:
    """Date, machine and versions; ``device`` by its full name."""
    from torch.cuda import get_device_name

    found = environment("stat", threads=threads, device=get_device_name() if device == "cuda" else device)
    peer = version("transformers") if importlib.util.find_spec("transformers") else None
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "transformers": peer, "environment": found}


if __name__ == "__main__":
    sys.exit(main())
