"""Nanoseconds an element of our MX formats beside torchao's, and a quantised linear layer beside a plain one.

    python benchmarks/mx.py [--smoke] [--pairs 20] [--microxcaling CHECKOUT] [--json benchmarks/results/mx.json]

One thread, fp32. ``formats``: 2,048 x 512 numbers quantised and dequantised in blocks of 32 along the last axis;
torchao and microxcaling do the same in the same process, in turn. ``linear``: 2,048 tokens through 512 x 512 weights,
both passes, all six operands rounded, beside fp32. Reported are medians, and medians of the pairs' ratios. torchao
comes with the extra ecosystem, or by `pip install torchao==0.18.0` beside this package.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isoflop.compress import mx
from isoflop.core.registry import get
from isoflop.models import kernels
from optim_step import environment

Act = Callable[[], Any]
ROWS, COLUMNS = 2048, 512


def seconds(act: Act) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def together(acts: dict[str, Act], pairs: int) -> dict[str, list[float]]:
    """Seconds of each, in turn; the first two rounds warm up."""
    spent: dict[str, list[float]] = {name: [] for name in acts}
    for t in range(pairs + 2):
        for name in sorted(acts, reverse=bool(t % 2)):
            taken = seconds(acts[name])
            if t > 1:
                spent[name].append(taken)
    return spent


def summary(spent: dict[str, list[float]], per: int = 1) -> dict[str, float]:
    """Medians, in nanoseconds an element where ``per`` counts them, and ours as a share of each other's."""
    scale = 1e9 / per if per > 1 else 1.0
    found = {name: statistics.median(times) * scale for name, times in spent.items()}
    for name in [name for name in spent if name != "ours"]:
        found[f"ours / {name}"] = statistics.median(a / b for a, b in zip(spent["ours"], spent[name], strict=True))
    return found


def torchao() -> dict[str, Callable[[torch.Tensor], Any]]:
    """Quantise and dequantise by torchao, by our formats' names; none where it is not installed."""
    try:
        from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
        from torchao.prototype.mx_formats.mx_tensor import MXTensor
    except ImportError:
        return {}
    kinds = {
        "mxfp8_e4m3": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
        "mxfp6_e3m2": DTYPE_FP6_E3M2,
        "mxfp6_e2m3": DTYPE_FP6_E2M3,
        "mxfp4_e2m1": torch.float4_e2m1fn_x2,
    }
    return {name: lambda x, kind=kind: MXTensor.to_mx(x, kind, 32).dequantize(x.dtype) for name, kind in kinds.items()}


def microxcaling(checkout: Path | None) -> dict[str, Callable[[torch.Tensor], Any]]:
    """The same by a checkout of microxcaling; none where none is given."""
    if checkout is None:
        return {}
    sys.path.insert(0, str(checkout))
    quantise = importlib.import_module("mx.mx_ops")._quantize_mx
    kinds = {name: name.removeprefix("mx") for name in mx.FORMATS if name not in ("mxint8", "mxint4")} | {
        "mxint8": "int8"
    }
    return {
        name: lambda x, kind=kind: quantise(x, 8, kind, axes=[-1], block_size=32, round="even")
        for name, kind in kinds.items()
    }


def formats(pairs: int, checkout: Path | None, rows: int) -> dict[str, dict[str, float]]:
    x = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(0))
    others = {"torchao": torchao(), "microxcaling": microxcaling(checkout)}
    found = {}
    for name in mx.FORMATS:
        acts: dict[str, Act] = {"ours": lambda name=name: mx.quantise(x, name)}
        for label, known in others.items():
            if name in known:
                acts[label] = lambda act=known[name]: act(x)
        found[name] = summary(together(acts, pairs), x.numel())
    return found


def linear(pairs: int, tokens: int) -> dict[str, float]:
    """Seconds of both passes of a linear layer: fp32, and with six MXFP8 operands."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, COLUMNS, generator=draw, requires_grad=True)
    w = torch.nn.Parameter(torch.randn(COLUMNS, COLUMNS, generator=draw))
    grad = torch.randn(tokens, COLUMNS, generator=draw)
    policy = get("parametrization", "mx")().policy  # type: ignore[attr-defined]
    acts: dict[str, Act] = {
        "ours": lambda: kernels.linear(x, w, operands=policy).backward(grad),
        "fp32": lambda: kernels.linear(x, w).backward(grad),
    }
    return summary(together(acts, pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few numbers, once")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--microxcaling", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs, rows = (1, 64) if args.smoke else (args.pairs, ROWS)
    found = {
        "environment": environment(),
        "pairs": pairs,
        "formats": formats(pairs, args.microxcaling, rows),
        "linear": linear(pairs, rows),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
