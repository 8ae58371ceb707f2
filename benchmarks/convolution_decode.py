"""Seconds of decoding with a long convolution, online beside lazy and eager, a linear recurrence and attention.

    python benchmarks/convolution_decode.py mixer model llama [--json benchmarks/results/convolution_decode.json]

One thread, one process, fp32, one sequence, 256 channels, CPU seconds.

- ``mixer``: the convolution alone. *Lazy* sums the whole past at each step, *eager* gives each input to the whole
  future; of each the quickest of several forms in torch stands, chosen anew at each length. *Online* is
  ``models.online_convolution``, which decodes every step of every length; of the other two, beyond 2,048 positions,
  steps spread evenly are timed: what a step costs grows, or falls, along a straight line.
  Beside them stands a linear recurrence, the *gated delta* rule with 4 heads in as many channels, whose steps cost the
  same at any position; at most 2,048 of them are timed.
- ``model``: four layers with projections, gates, feed-forwards, and the head, the same model with each of the three,
  and with the mixer ``gated_delta``.
- ``llama``: transformers' ``generate`` of a Llama of as many parameters, beside our decoder with the convolutions.
  Seconds a token behind prompts of four lengths, spread evenly, in the quicker of two caches. Run it where transformers
  is installed.

Sides take turns, and medians are compared. The filter's transforms are made before (their seconds stand beside).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoflop.core.context import Context
from isoflop.core.files import write_json
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.decode.decoders.sample import Sample
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.delta_rule import gated_delta_step
from isoflop.models.online_convolution import Kernel, OnlineConvolution, step_cost
from isoflop.store.environment import environment

CHANNELS, LAYERS, HIDDEN, VOCAB, HEADS = 256, 4, 688, 1024, 4
LENGTHS = [1 << k for k in range(6, 17)]
WHOLE, WINDOWS, WINDOW = 2048, 32, 8
"""Positions up to which each step is timed; beyond, so many windows of so many steps."""
GATES = {"mixer": {16_384: 10.0, 65_536: 80.0}, "model": {16_384: 2.5, 65_536: 10.0}, "llama": {16_384: 5.0}}
SLOWEST = 1.1
"""From 64 positions on, the online way may take so many times as long as the quicker of the others."""


# ---------------------------------------------------------------- the other ways


class Lazy:
    """Sums the past at each step; ``form`` says how."""

    forms = ("rows", "columns", "product")

    def __init__(self, taps: Tensor, form: str) -> None:
        self.form, (length, channels) = form, taps.shape
        reverse = taps.flip(0).contiguous()
        self.taps = reverse if form == "rows" else reverse.t().contiguous()
        self.y = torch.zeros_like(self.taps)
        self.space, self.size, self.place = torch.empty(length, channels), length, 0

    def step(self, y: Tensor) -> Tensor:
        n = self.place + 1
        self.place, first = n, self.size - n
        if self.form == "rows":
            self.y[n - 1] = y[0]
            return torch.mul(self.y[:n], self.taps[first:], out=self.space[:n]).sum(0)[None]
        self.y[:, n - 1] = y[0]
        if self.form == "columns":
            return (self.y[:, :n] * self.taps[:, first:]).sum(1)[None]
        return torch.bmm(self.y[:, None, :n], self.taps[:, first:, None])[:, 0].t()


class Eager:
    """Gives each input to the future; ``form`` says how."""

    forms = ("rows", "columns")

    def __init__(self, taps: Tensor, form: str) -> None:
        self.rows, self.size, self.place = form == "rows", len(taps), 0
        self.taps = taps.contiguous() if self.rows else taps.t().contiguous()
        self.z = torch.zeros_like(self.taps)

    def step(self, y: Tensor) -> Tensor:
        n = self.place
        self.place = n + 1
        if self.rows:
            return self.z[n:].addcmul_(self.taps[: self.size - n], y)[:1]
        z = self.z[:, n:].addcmul_(self.taps[:, : self.size - n], y.t())
        return z[:, :1].t()


OTHERS: dict[str, Any] = {"lazy": Lazy, "eager": Eager}
RECURRENCE = "gated delta"


class Recurrence:
    """The gated delta rule, of queries, keys and values that are given."""

    def __init__(self) -> None:
        size = CHANNELS // HEADS
        draw = torch.randn(3, HEADS, 1, size, generator=torch.Generator().manual_seed(2))
        self.q, self.k, self.v = torch.nn.functional.normalize(draw, dim=-1).unbind()
        self.beta, self.decay = torch.full((HEADS, 1), 0.5), torch.full((HEADS, 1), -0.01)
        self.memory = torch.zeros(HEADS, size, size)

    def step(self) -> Tensor:
        found, self.memory = gated_delta_step(self.q, self.k, self.v, self.beta, self.decay, self.memory)
        return found


# ---------------------------------------------------------------- timing


def windows(length: int) -> list[range]:
    """The steps that are timed."""
    if length <= WHOLE:
        return [range(length)]
    starts = [int((i + 0.5) * length / WINDOWS) - WINDOW // 2 for i in range(WINDOWS)]
    return [range(start, start + WINDOW) for start in starts]


def seconds(step: Callable[[int], Any], jump: Callable[[int], Any], steps: Iterable[range], length: int) -> float:
    """CPU seconds of ``length`` steps, by those that are run."""
    spent = count = 0.0
    for window in steps:
        jump(window.start)
        start = time.process_time()
        for place in window:
            step(place)
        spent += time.process_time() - start
        count += len(window)
    return spent * length / count


def turns(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, which take turns in one order and back."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in list(sides) if turn % 2 else reversed(sides):
            found[name].append(sides[name]())
    return found


def compared(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, the better one of lazy and eager, and how many times as long as ours it takes."""
    medians = {name: statistics.median(found) for name, found in times.items()}
    other = min((name for name in medians if name.split()[0] in OTHERS), key=medians.__getitem__)
    return {
        "seconds": medians,
        "spread": {name: max(found) / min(found) for name, found in times.items()},
        "better": other,
        "ratio": medians[other] / medians["online"],
    }


def ways(seconds: dict[str, float]) -> dict[str, str]:
    """Of lazy, eager and online, the name of the quickest form."""
    return {
        way: min((name for name in seconds if name.startswith(way)), key=seconds.__getitem__)
        for way in (*OTHERS, "online")
    }


# ---------------------------------------------------------------- the convolution alone


def filters(length: int) -> Tensor:
    draw = torch.randn(length, CHANNELS, generator=torch.Generator().manual_seed(length))
    return draw * torch.exp(-torch.outer(torch.arange(length) / length, torch.linspace(1, 50, CHANNELS)))


def mixer(length: int, repeats: int) -> dict[str, Any]:
    taps = filters(length)
    inputs = torch.randn(256, 1, CHANNELS, generator=torch.Generator().manual_seed(1)).unbind()
    start = time.process_time()
    kernel = Kernel(taps)
    for size in (1 << k for k in range(20)):
        if kernel.block <= size < length:
            kernel.spectrum(size)
    prepared, _ = time.process_time() - start, kernel.reach

    def online() -> float:
        conv = OnlineConvolution(kernel)
        return seconds(lambda place: conv.step(inputs[place % 256]), lambda place: None, [range(length)], length)

    def other(way: Any, form: str) -> float:
        side = way(taps, form)
        jump = lambda place: setattr(side, "place", place)  # noqa: E731
        return seconds(lambda place: side.step(inputs[place % 256]), jump, windows(length), length)

    sides = {
        f"{name} {form}": lambda way=way, form=form: other(way, form)
        for name, way in OTHERS.items()
        for form in way.forms
    }

    def recurrence() -> float:
        side = Recurrence()
        return seconds(lambda place: side.step(), lambda place: None, [range(min(length, WHOLE))], length)

    same(taps, kernel, inputs, min(length, 512))
    times = turns({**sides, RECURRENCE: recurrence, "online": online}, repeats)
    costs = [step_cost(place, CHANNELS, kernel.block, capacity=length) for place in range(length)]
    return {
        "length": length,
        "block": kernel.block,
        "transforms_of_the_filter_seconds": prepared,
        "flops": {
            "online": sum(cost.executed + cost.elementwise for cost in costs),
            "lazy or eager": CHANNELS * length * (length + 1),
        },
        **compared(times),
    }


def same(taps: Tensor, kernel: Kernel, inputs: tuple[Tensor, ...], length: int) -> None:
    """All ways give the same numbers."""
    sides = [OnlineConvolution(kernel), *(way(taps, form) for way in OTHERS.values() for form in way.forms)]
    for place in range(length):
        first, *others = (side.step(inputs[place % 256]) for side in sides)
        for each in others:
            torch.testing.assert_close(each, first, rtol=1e-4, atol=1e-5 * max(1.0, float(first.abs().max())))


# ---------------------------------------------------------------- a model


def architecture(mixer: dict[str, Any]) -> TransformerPart:
    return TransformerPart.model_validate(
        {
            "d_model": CHANNELS,
            "layers": LAYERS,
            "mixer": mixer,
            "feed_forward": {"name": "swiglu", "hidden": HIDDEN},
            "tied": True,
            "embedding_scale": 1.0,
        }
    )


def built(part: TransformerPart, length: int) -> Any:
    tokenizer = get("tokenizer", "bytes")()
    ctx = Context(Rng(0), Path(), tokenizer, vocab_size=VOCAB, batch=1, length=length)  # type: ignore[arg-type]
    return part.build(ctx).requires_grad_(False)


def convolutional(length: int) -> Any:
    return built(architecture({"name": "long_convolution", "length": length}), length)


def model(length: int, repeats: int, forms: dict[str, str]) -> dict[str, Any]:
    """Each way in the same model; ``forms`` are the ways' quickest at this length."""
    whole = convolutional(length)
    ready, tokens = whole.prepared(1), torch.zeros(1, 1, dtype=torch.int64)
    taps = [products[0][1](length).detach() for products in ready.products]
    recurrent = built(architecture({"name": "gated_delta", "heads": HEADS}), length).prepared(1)

    def recurrence() -> float:
        cache = recurrent.make_cache(1, 1)
        step = lambda place: recurrent.step(tokens, cache, 1).argmax()  # noqa: E731
        return seconds(step, lambda place: None, [range(min(length, WHOLE))], length)

    def run(way: str) -> float:
        cache = ready.make_cache(1, length)
        if way != "online":
            for state, own in zip(cache.layers, taps, strict=True):
                state._online = OTHERS[way](own, forms[way])

        def jump(place: int) -> None:
            if way != "online":
                for state in cache.layers:
                    state.length = state._online.place = place

        steps = [range(length)] if way == "online" else windows(length)
        return seconds(lambda place: ready.step(tokens, cache, 1).argmax(), jump, steps, length)

    start = time.process_time()
    for products in ready.products:
        for size in (1 << k for k in range(20)):
            if products[0][1].kernel.block <= size < length:
                products[0][1].kernel.spectrum(size)
    prepared = time.process_time() - start
    sides = {way: lambda way=way: run(way) for way in ("lazy", "eager", "online")}
    times = turns({**sides, RECURRENCE: recurrence}, repeats)
    return {"length": length, "forms": forms, "transforms_of_the_filters_seconds": prepared, **compared(times)}


# ---------------------------------------------------------------- beside attention


def llama(length: int, repeats: int, new: int = 32) -> dict[str, Any]:
    """Seconds of ``length`` tokens: a Llama by transformers, and the convolutions by our decoder, whole."""
    from transformers import LlamaForCausalLM

    from isoflop.models.hf.export import Ids, export

    part = architecture({"name": "attention", "heads": HEADS})
    with tempfile.TemporaryDirectory() as place:
        weights = built(part, length).state_dict()
        export(part, weights, Path(place) / "llama", context=length + new, ids=Ids(), identity="benchmark")
        peer = LlamaForCausalLM.from_pretrained(Path(place) / "llama", dtype=torch.float32).eval()
    ready = convolutional(length).prepared(1)
    prompts = [torch.zeros(1, int((i + 0.5) * length / 4), dtype=torch.int64) for i in range(4)]

    def generate(prompt: Tensor, count: int, cache: str) -> float:
        start = time.process_time()
        peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            cache_implementation=cache,
            disable_compile=True,
        )
        return time.process_time() - start

    def theirs(cache: str) -> float:
        spent = sum(generate(prompt, new, cache) - generate(prompt, 1, cache) for prompt in prompts)
        return spent / (len(prompts) * (new - 1)) * length

    def ours() -> float:
        start = time.process_time()
        Sample(temperature=0).generate(ready, [[0]], length - 1, Rng(0))
        return time.process_time() - start

    ours()
    sides = {f"transformers {cache}": lambda cache=cache: theirs(cache) for cache in ("dynamic", "static")}
    times = turns({**sides, "online": ours}, repeats)
    medians = {name: statistics.median(found) for name, found in times.items()}
    peers = {name: found for name, found in medians.items() if name != "online"}
    return {
        "length": length,
        "parameters": {"llama": sum(p.numel() for p in peer.parameters()), "ours": parameters(length)},
        "seconds": medians,
        "better": min(peers, key=peers.__getitem__),
        "ratio": min(peers.values()) / medians["online"],
    }


def parameters(length: int) -> int:
    return sum(shape.numel for shape in architecture({"name": "long_convolution", "length": length}).shapes(VOCAB))


# ---------------------------------------------------------------- all of it


def said(kind: str, row: dict[str, Any]) -> str:
    gate = GATES[kind].get(row["length"])
    times = ", ".join(f"{name} {spent:.4g}" for name, spent in row["seconds"].items())
    asked = f"  (asked: {gate:g}x)" if gate else ""
    return f"{kind:6} L={row['length']:6}: {row['ratio']:7.2f}x {row['better']}{asked}  seconds: {times}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=list(GATES), default=["mixer", "model"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--model-lengths", nargs="+", type=int, default=[16_384, 65_536])
    parser.add_argument("--llama-length", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model-repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load, rows = os.getloadavg()[0], {kind: list[dict[str, Any]]() for kind in arguments.parts}

    def note(kind: str, row: dict[str, Any]) -> None:
        rows[kind].append(row)
        print(said(kind, row), flush=True)

    with torch.no_grad():
        for length in arguments.lengths if "mixer" in arguments.parts else []:
            repeats = arguments.repeats if length > WHOLE else 3 * arguments.repeats
            note("mixer", mixer(length, repeats))
        for length in arguments.model_lengths if "model" in arguments.parts else []:
            alone = ways(mixer(length, 1)["seconds"])
            forms = {way: alone[way].split()[-1] for way in OTHERS}
            note("model", model(length, arguments.model_repeats, forms))
        if "llama" in arguments.parts:
            note("llama", llama(arguments.llama_length, 1))
    if arguments.json:
        written = {"environment": environment(), "load_before": load, "load_after": os.getloadavg()[0], "rows": rows}
        write_json(arguments.json, json.loads(json.dumps(written, default=str)))


if __name__ == "__main__":
    main()
