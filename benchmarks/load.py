"""Seconds and peak memory of reading a published model: ours beside transformers' ``from_pretrained``.

    python benchmarks/load.py [--out benchmarks/results/load.json] [--repeats 3]

A random Llama of SmolLM2-135M's shape is written in fp32 and in bf16. Each reading has a process of its own, which
imports everything first, so that what is counted is beyond the process before: the highest resident memory during the
reading over the file's size, and seconds. Both read the file from the system's cache. "Ready" is after one forward of
eight tokens, since a mapped file is only read when its numbers are used. In fp32 both hold fp32; bf16 both hold bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from isoflop.core.files import write_json
from isoflop.store.environment import environment

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
PARTS = (
    ("arrangement", "pre_norm"),
    ("feed_forward", "swiglu"),
    ("mixer", "attention"),
    ("norm", "rms"),
    ("position", "rotary"),
    ("tokenizer", "bytes"),
)
SIDES = ("ours", "transformers")
KINDS = {"float32": "fp32", "bfloat16": "bf16"}


def make(path: Path, dtype: str) -> int:
    """Write the model; bytes of its weights."""
    import torch

    from isoflop.models.hf.config import Config
    from isoflop.models.hf.export import Ids, export
    from isoflop.models.hf.families import part_of

    part = part_of(Config(SHAPE, "benchmark"), tied=True)
    draw = torch.Generator().manual_seed(0)
    shapes = part.shapes(int(SHAPE["vocab_size"]))  # type: ignore[call-overload]
    weights = {shape.name: 0.02 * torch.randn(shape.shape, generator=draw) for shape in shapes}
    export(part, weights, path, context=8192, ids=Ids(), identity=dtype, dtype=dtype)
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def child(side: str, directory: str, dtype: str) -> None:
    """In a process of its own: read, print what it took."""
    import time

    import torch

    torch.set_num_threads(1)
    tokens = torch.arange(8)[None]
    if side == "ours":
        from isoflop.core.registry import get
        from isoflop.models.hf.directory import load

        for slot, name in PARTS:  # imported before, as theirs are: the peer's Llama is one module
            get(slot, name)

        def read() -> Any:
            return load(directory, precision=KINDS[dtype])[0]  # type: ignore[arg-type]
    else:
        import transformers
        from transformers.models.llama import modeling_llama  # noqa: F401  (imported before, as ours is)

        def read() -> Any:
            kind = getattr(torch, dtype)
            return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=kind)

    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    before = memory("VmRSS")
    start = time.perf_counter()
    model = read()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        model(tokens)
    ready = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "ready": ready, "peak": memory("VmHWM") - before}))


def memory(key: str) -> int:
    """Bytes of this process, by the system's count."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, default=None)
    chosen = parser.parse_args()
    if chosen.child:
        child(*chosen.child)
        return
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for dtype in KINDS:
            directory = Path(place) / dtype
            size = make(directory, dtype)
            found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(chosen.repeats):
                for side in SIDES:
                    command = [sys.executable, __file__, "--child", side, str(directory), dtype]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    found[side].append(json.loads(done.stdout.splitlines()[-1]))
            for side in SIDES:
                row = {key: statistics.median(each[key] for each in found[side]) for key in found[side][0]}
                rows.append({"dtype": dtype, "side": side, "file": size, **row, "peak_over_file": row["peak"] / size})
                print(
                    f"{dtype:9} {side:13} read {row['seconds']:.2f} s, ready {row['ready']:.2f} s, "
                    f"peak {row['peak'] / size:.2f} of the file"
                )
    if chosen.out is not None:
        write_json(chosen.out, {"rows": rows, "environment": environment()})


if __name__ == "__main__":
    main()
