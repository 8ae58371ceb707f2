"""Packing against a slow and obvious one: no target is lost, no window is too full, no document sees another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cli.main import invoke
from isoflop.core.context import Context
from isoflop.core.contracts import TokenBatch
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.core.slots import resolve
from isoflop.data.packing import PackedBatches, Packing, first_fit
from isoflop.data.streams import Stream
from isoflop.data.tokenizers.bytes import Bytes
from isoflop.store.run import Run
from isoflop.train.run import train
from killing import rewind

EOT = 256


def stream_of(sizes: list[int], *, own: bool = False, prompts: list[int] | None = None) -> Stream:
    """Documents of so many positions each; prompts say how many of each one's targets do not count."""
    ids, counts, starts = ([] if own else [EOT]), ([] if own else [True]), [0]
    for number, size in enumerate(sizes):
        text = [number % 200] * (size - 1)
        masked = min(prompts[number], size - 1) if prompts else 0
        ids += [*([200] if own else []), *text, EOT]
        counts += [*([not prompts] if own else []), *(place >= masked for place in range(size))]
        starts.append(len(ids))
    mask = np.array(counts) if prompts else None
    return Stream(np.array(ids, np.uint16), Bytes(), mask, np.array(starts) if own else None)


def obviously(sizes: list[int], room: int) -> list[list[int]]:
    """First fit decreasing, as it is told."""
    windows: list[list[int]] = []
    for size in sorted(sizes, reverse=True):
        for window in windows:
            if sum(window) + size <= room:
                window.append(size)
                break
        else:
            windows.append([size])
    return windows


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 12), max_size=40), room=st.integers(12, 30))
def test_first_fit_is_what_it_says(sizes: list[int], room: int) -> None:
    sizes = sorted(sizes, reverse=True)
    found = first_fit(sizes, room)
    windows = [[s for s, w in zip(sizes, found, strict=True) if w == number] for number in range(len(set(found)))]
    assert windows == obviously(sizes, room)


CASES = {
    "sizes": st.lists(st.integers(1, 25), min_size=1, max_size=30),
    "length": st.integers(1, 12),
    "overlong": st.sampled_from(["split", "cut"]),
    "own": st.booleans(),
    "data": st.data(),
}


@settings(deadline=None)
@given(**CASES)
def test_every_target_lies_in_one_window(sizes: Any, length: int, overlong: Any, own: bool, data: Any) -> None:
    prompts = data.draw(st.none() | st.lists(st.integers(0, 25), min_size=len(sizes), max_size=len(sizes)))
    stream = stream_of(sizes, own=own, prompts=prompts)
    packing = Packing.of(stream, length, overlong)
    counts = np.ones(len(stream.tokens), bool) if stream.counts is None else stream.counts
    expected, dropped = [], 0
    for start, stop in zip(stream.starts.tolist(), stream.stops.tolist(), strict=True):
        for first in range(start, stop, length):
            last = min(first + length, stop)
            counted = int(counts[first + 1 : last + 1].sum())
            if overlong == "cut" and first > start:
                dropped += counted
            elif counted:
                expected.append((first, last))
    pieces = [packing.pieces(window) for window in range(packing.windows)]
    assert sorted(piece for window in pieces for piece in window) == sorted(expected)
    assert packing.dropped == dropped
    assert packing.overlong == sum(
        stop - start > length for start, stop in zip(stream.starts, stream.stops, strict=True)
    )
    assert [[b - a for a, b in window] for window in pieces] == obviously([b - a for a, b in expected], length)
    filled = sum(b - a for a, b in expected)
    assert packing.padding == pytest.approx(1 - filled / (packing.windows * length) if expected else 1)
    if packing.windows:
        batches = PackedBatches(stream, packing, batch=1, rng=Rng(0)("data"), fingerprint="x")
        seen = [next(batches) for _ in range(packing.windows)]
        assert sum(batch.units for batch in seen) == int(counts[1:].sum()) - own_starts(stream, counts) - dropped
        for batch in seen:
            check(batch, stream)


def own_starts(stream: Stream, counts: Any) -> int:
    """Beginnings of documents, which nothing in a packed window predicts."""
    return 0 if stream.own_starts is None else int(counts[stream.own_starts[1:-1]].sum())


def check(batch: TokenBatch, stream: Stream) -> None:
    """Each document of a window is a piece of the stream; what is left over counts nowhere."""
    (inputs,), (targets,), (documents,) = batch.inputs, batch.targets, batch.columns["documents"]
    mask = torch.ones_like(inputs, dtype=torch.bool) if batch.mask is None else batch.mask[0]
    known = set()
    for start, stop in zip(stream.starts.tolist(), stream.stops.tolist(), strict=True):
        known |= {tuple(stream.tokens[i : i + 2].tolist()) for i in range(start, stop)}
    for number in documents.unique().tolist():
        chosen = documents == number
        places = chosen.nonzero().flatten()
        assert int(places[-1] - places[0]) == len(places) - 1
        if number == 0:
            assert not mask[chosen].any()
        else:
            pairs = zip(inputs[chosen].tolist(), targets[chosen].tolist(), strict=True)
            assert all(pair in known for pair in pairs)
    assert batch.text_bytes == int(stream.tokenizer.byte_lengths[targets[mask].numpy()].sum())


def test_many_short_documents_leave_little_over() -> None:
    sizes = np.random.default_rng(0).geometric(1 / 60, 3000).tolist()
    assert Packing.of(stream_of(sizes), 1024, "split").padding < 0.01
    assert Packing.of(stream_of([513] * 50), 1024, "split").padding == pytest.approx(511 / 1024)


def write(path: Path, count: int = 80) -> Path:
    draw = np.random.default_rng(1)
    records = [
        {"prompt": f"q{i} " * draw.integers(1, 5), "completion": "word " * draw.integers(1, 12)} for i in range(count)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def recipe_of(folder: Path, *settings: str, steps: int = 4) -> Recipe:
    path = write(folder / "a.jsonl")
    text = f"""source = {{ name = "packed", source = {{ name = "jsonl", paths = "{path}", prompt_key = "prompt" }} }}
model = {{ name = "transformer", d_model = 16, layers = 2, mixer = {{ name = "attention", heads = 2 }} }}
train = {{ length = 48, batch = 3, accumulate = 2, evaluations = 1, checkpoints = 2 }}
budget = {{ steps = {steps} }}
"""
    return Recipe.from_toml(text, *settings)


def test_the_ledger_is_the_audits_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    whole = train(recipe_of(tmp_path), tmp_path / "runs", name="a", audit=True, warn=said.append)
    assert any("windows of 48 tokens are packed" in remark for remark in said)
    assert 0 < whole.ledger["train"]["tokens"] < 4 * 2 * 3 * 48
    parted = train(recipe_of(tmp_path), tmp_path / "runs", name="b")
    rewind(parted, 4)
    parted = train(recipe_of(tmp_path), tmp_path / "runs", name="b")
    assert Run.read(parted.path).result["value"] == whole.result["value"]
    bills = [
        {axis: spent for axis, spent in run.ledger["train"].items() if axis != "seconds"} for run in (parted, whole)
    ]
    assert bills[0] == bills[1]
    weights = [run.checkpoint()[1] / "model.safetensors" for run in (parted, whole)]  # type: ignore[index]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@torch.no_grad()
def test_documents_of_a_window_are_as_documents_alone(tmp_path: Path) -> None:
    """The loss of a packed window is that of its documents one by one."""
    recipe = recipe_of(tmp_path, "source.source.deduplicate=none")
    ctx = Context(Rng(0), tmp_path / "cache", recipe.tokenizer, recipe.vocab_size, batch=2, length=48)
    model = recipe.policy.build(ctx)
    objective = recipe.objective.build(ctx.having(models={"policy": model}))
    batch = next(recipe.source.build(ctx).batches(ctx))
    assert isinstance(batch, TokenBatch)
    apart = 0.0
    mask = torch.ones_like(batch.inputs, dtype=torch.bool) if batch.mask is None else batch.mask
    for row in range(2):
        for number in batch.columns["documents"][row].unique().tolist():
            chosen = batch.columns["documents"][row] == number
            inputs, targets, counts = (each[row][chosen][None] for each in (batch.inputs, batch.targets, mask))
            apart += float(objective.loss(TokenBatch(inputs, targets, 1, counts)).total) if counts.any() else 0.0
    assert float(objective.loss(batch).total) == pytest.approx(apart, rel=1e-5)


def test_packing_is_of_text_and_its_tokens_are_no_budget(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"budget.tokens: how many tokens a step predicts depends on how"):
        recipe_of(tmp_path).with_("budget={tokens=10000}")
    twice = {"name": "packed", "source": {"name": "packed", "source": "stdlib"}}
    with pytest.raises(RecipeError, match=r"source.source: packed gives no documents to pack"):
        Recipe.from_json({"source": twice, "model": "transformer", "budget": {"steps": 1}})


def test_a_position_in_another_packing_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    ctx = Context(Rng(0), tmp_path, get("tokenizer", "bytes")(), 257, batch=2, length=16)  # type: ignore[arg-type]
    inner = {"name": "jsonl", "paths": str(path)}
    parts: list[Any] = [
        resolve("source", {"name": "packed", "overlong": way, "source": {**inner, "prompt_key": "prompt"}})
        for way in ("split", "cut")
    ]
    state = parts[0].build(ctx).batches(ctx).state_dict()
    with pytest.raises(DataError, match="windows was"):
        parts[1].build(ctx).batches(ctx).load_state_dict(state)
    facts = parts[1].build(ctx).describe()["packing"]
    assert facts["overlong"] > 0 < facts["dropped_tokens"]
    assert any("are longer than a window and are cut" in remark for remark in parts[1].build(ctx).remarks)


def test_a_run_says_how_it_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text(recipe_of(tmp_path, steps=2).to_toml())
    assert invoke(["train", str(recipe), "--root", str(tmp_path / "runs"), "--name", "a"]) == 0
    assert "windows of 48 tokens are packed" in capsys.readouterr().err
    assert invoke(["train", str(recipe), "--root", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert "at most" in capsys.readouterr().out
