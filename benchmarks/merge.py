"""CPU time and memory of `isoflop merge` beside mergekit's on the same checkpoints.

    python benchmarks/merge.py --mergekit MERGEKIT_ENV/bin/mergekit-yaml [--scratch FOLDER] [--repeats 3] [--quick]

mergekit needs an environment of its own (pip install mergekit==0.1.5). Checkpoints are random fp32 Llamas of 134 and
265 million parameters, a base and two models near it, made by this script in the scratch folder (5 GB, kept for the
next time). Every job is a process of its own, the tools take turns, and medians over the repeats are compared as
ratios, ours to mergekit's. Both tools get the same YAML and one thread.

Memory is said twice. ``peak`` is the process's largest resident set (VmHWM). ``anonymous`` is the largest resident
memory that is no file's page (RssAnon, sampled every 10 ms from /proc): mapped pages of the inputs are left out of it,
as are the pages of libraries. mergekit maps its inputs, ours are read where they lie and never mapped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from isoflop.core.files import write_json
from isoflop.store.environment import environment

RESULTS = Path(__file__).parent / "results"
GATES = {"linear": {"cpu": 0.6, "peak": 0.25}, "ties": {"cpu": 0.5, "peak": 0.25}}
"""Largest ratios of ours to mergekit's."""
SIZES = {
    "134M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "kv": 192},
    "265M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 34, "kv": 256},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "kv": 32},
}
JOBS = {
    "linear": """
merge_method: linear
models:
- {{model: {a}, parameters: {{weight: 1.0}}}}
- {{model: {b}, parameters: {{weight: 0.3}}}}
dtype: float32
""",
    "ties": """
merge_method: ties
base_model: {base}
models:
- {{model: {a}, parameters: {{weight: 0.6, density: 0.5}}}}
- {{model: {b}, parameters: {{weight: 0.4, density: 0.5}}}}
dtype: float32
""",
}


@dataclass(frozen=True)
class Spent:
    """What one process took."""

    cpu: float
    """Seconds of user and system time."""
    user: float
    wall: float
    peak: int
    """Bytes."""
    anonymous: int
    """Bytes."""


def make(path: Path, shape: dict[str, int], seed: int, near: Path | None) -> int:
    """Write a random Llama; its number of parameters. ``near``: its weights are close to this checkpoint's."""
    import torch

    from isoflop.store.tensor_writer import lay_out, open_output
    from isoflop.store.tensors import Checkpoint, as_bytes

    width, hidden, kv, vocab = shape["hidden_size"], shape["intermediate_size"], shape["kv"], 49152
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for layer in range(shape["num_hidden_layers"]):
        for name, (rows, columns) in {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (kv, width),
            "self_attn.v_proj": (kv, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (hidden, width),
            "mlp.up_proj": (hidden, width),
            "mlp.down_proj": (width, hidden),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = (rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (width,)
    count = sum(int(torch.Size(shape).numel()) for shape in shapes.values())
    if path.exists():
        return count
    draw = torch.Generator().manual_seed(seed)
    base = Checkpoint(near) if near else None
    layout = lay_out([(name, "F32", shape) for name, shape in shapes.items()])
    with open_output(path, layout, f"{seed:064}") as output:
        for name, size in shapes.items():
            tensor = torch.randn(size, generator=draw) * (0.002 if base else 0.02)
            output.write(name, 0, as_bytes(tensor if base is None else tensor + base.read(name)))
            output.finished(name)
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab,
            "num_attention_heads": 9 if width == 576 else width // 64 if width > 64 else 2,
            "num_key_value_heads": 3 if width == 576 else max(kv // 64, 1),
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            **{key: value for key, value in shape.items() if key != "kv"},
        }
        write_json(output.path / "config.json", config)
    return count


def run(command: list[str]) -> Spent:
    """Run a process to its end, watching its memory."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before = time.perf_counter()
    process = subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    status, anonymous, peak = Path(f"/proc/{process.pid}/status"), 0, 0
    while True:
        pid, code, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            anonymous = max(anonymous, int(lines.get("RssAnon", "0").split()[0]) * 1024)
            peak = max(peak, int(lines.get("VmHWM", "0").split()[0]) * 1024)
        except (OSError, ValueError):
            pass  # it has just ended
        time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read().decode()[-2000:]}")
    wall = time.perf_counter() - before
    return Spent(usage.ru_utime + usage.ru_stime, usage.ru_utime, wall, max(peak, usage.ru_maxrss * 1024), anonymous)


def compared(one: Path, other: Path) -> tuple[float, int]:
    """Largest difference of two checkpoints' tensors, and the number of elements that differ at all."""
    from isoflop.store.tensors import Checkpoint, pieces

    a, b = Checkpoint(one), Checkpoint(other)
    worst, count = 0.0, 0
    for name in a.tensors:
        for at in pieces(a.flat(name).numel):
            apart = (a.flat(name).piece(*at) - b.flat(name).piece(*at)).abs()
            worst, count = max(worst, float(apart.max())), count + int(apart.count_nonzero())
    return worst, count


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process of its own: a process starts with its parent's peak, so this one has to stay small."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(size: str, job: str, folder: Path, mergekit: str, repeats: int) -> dict[str, Any]:
    """Both tools on one job, taking turns."""
    names = {name: folder / size / name for name in ("base", "a", "b")}
    parameters = elsewhere(make, names["base"], SIZES[size], 0, None)
    for seed, name in enumerate(("a", "b"), 1):
        elsewhere(make, names[name], SIZES[size], seed, names["base"])
    config = folder / f"{job}-{size}.yaml"
    config.write_text(JOBS[job].format(**names))
    outs = {tool: folder / f"{job}-{size}-{tool}" for tool in ("ours", "mergekit")}
    commands = {
        "ours": [sys.executable, "-m", "isoflop", "merge", str(config), str(outs["ours"])],
        "mergekit": [mergekit, str(config), str(outs["mergekit"]), "--no-copy-tokenizer", "--num-threads", "1"],
    }
    found: dict[str, list[Spent]] = {"ours": [], "mergekit": []}
    for _ in range(repeats):
        for tool, command in commands.items():
            shutil.rmtree(outs[tool], ignore_errors=True)
            found[tool].append(run(command))
            print(f"{job} {size} {tool}: {found[tool][-1]}", flush=True)
    difference, differing = elsewhere(compared, *outs.values())
    for out in outs.values():
        shutil.rmtree(out)
    medians = {
        tool: {key: statistics.median(asdict(spent)[key] for spent in each) for key in asdict(each[0])}
        for tool, each in found.items()
    }
    ratios = {key: medians["ours"][key] / medians["mergekit"][key] for key in medians["ours"]}
    return {
        "job": job,
        "size": size,
        "parameters": parameters,
        "largest_difference": difference,
        "elements_that_differ": differing,
        "medians": medians,
        "ratios": ratios,
        "gates": GATES[job],
        "within": all(ratios[key] <= limit for key, limit in GATES[job].items()),
        "runs": {tool: [asdict(spent) for spent in each] for tool, each in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", required=True, help="the program mergekit-yaml of its own environment")
    parser.add_argument("--scratch", type=Path, default=Path("merge-bench"), help="where checkpoints are kept")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny checkpoints: only whether it works")
    parser.add_argument("--out", type=Path, default=RESULTS / "merge.json")
    given = parser.parse_args()
    sizes = ["tiny"] if given.quick else ["134M", "265M"]
    rows = [
        measure(size, job, given.scratch, given.mergekit, given.repeats) for size in sizes for job in ("linear", "ties")
    ]
    for row in rows:
        ratios = ", ".join(f"{key} {row['ratios'][key]:.2f}x" for key in ("cpu", "peak", "anonymous"))
        print(f"{row['job']:7} {row['size']}: {ratios}  ({'within' if row['within'] else 'NOT within'} {row['gates']})")
    if not given.quick:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            given.out, {"date": date, "environment": json.loads(json.dumps(environment(), default=str)), "rows": rows}
        )


if __name__ == "__main__":
    main()
