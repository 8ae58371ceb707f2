"""What every part of the slot source must do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.context import Context
from isoflop.core.contracts import Batch, Batches, HeldOut, PosesPuzzles, Source, SourcePart, Stateful
from isoflop.core.errors import DataError
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.data.engine.building import build
from isoflop.data.engine.inputs import units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.sources import stdlib
from isoflop.data.tokenizers.bytes import BytesPart

PROSE = "It is said here at some length what {} is for and when to call it, so that nobody has to guess. "


def text_files(folder: Path) -> dict[str, Any]:
    for number in range(60):
        (folder / f"{number}.txt").write_text(words(number))
    return {"paths": [f"{folder}/*.txt"]}


def records(folder: Path) -> dict[str, Any]:
    lines = [json.dumps({"text": words(n), "kind": "ab"[n % 2]}) for n in range(120)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return {"paths": str(folder / "a.jsonl"), "domain_key": "kind"}


def small_library(folder: Path) -> dict[str, Any]:
    """The standard library's place is taken by forty files, see ``made``."""
    for number in range(40):
        docstring = "".join(PROSE.format(f"{word} {number}") for word in words(number).split()[:5])
        code = "".join(f"    {word} = {number}\n" for word in words(1000 + number).split())
        (folder / f"m{number}.py").write_text(f'def f{number}():\n    """{docstring}"""\n{code}')
    return {}


def built(folder: Path) -> dict[str, Any]:
    out = folder / "built"
    build(units_of([str(records(folder)["paths"])]), BytesPart(), JobSettings(out), share=0.1)
    return {"path": str(out)}


# A new part: one row. Name -> the fields of a small example, given a folder for its files.
EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "text": text_files,
    "jsonl": records,
    "stdlib": small_library,
    "files": records,
    "built": built,
    "packed": lambda folder: {"source": {"name": "jsonl", **records(folder)}},
    "padded": lambda folder: {"source": {"name": "jsonl", **records(folder)}},
    "progressive": lambda folder: {"source": {"name": "pcfg", "text_bytes": 20_000}},
    "pcfg": lambda folder: {"text_bytes": 20_000},
    "hmm": lambda folder: {"text_bytes": 20_000, "mean_bytes": 100.0},
}


def words(number: int, count: int = 80) -> str:
    return " ".join(f"w{i}" for i in Rng(2)("words").at(number).integers(0, 300, count))


TEXTUAL = [name for name in names("source") if PosesPuzzles not in get("source", name).provides]
"""Those whose windows lie in streams of documents; rows of puzzles have their tests in unit/data/test_data_puzzles."""


@pytest.fixture(scope="module", params=TEXTUAL)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A part, its context and its live source."""
    folder = tmp_path_factory.mktemp("input")
    part = get("source", request.param).model_validate_json(json.dumps(EXAMPLES[request.param](folder)))
    assert isinstance(part, SourcePart)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stdlib, "library_root", lambda: folder)
        patch.setattr(stdlib, "of_topics", lambda: iter(()))
        patch.setattr(stdlib, "of_builtins", lambda: iter(()))
        ctx = context(tmp_path_factory.mktemp("cache"))
        yield part, ctx, part.build(ctx)


def context(cache: Path, **changes: Any) -> Context:
    tokenizer = get("tokenizer", "bytes")()
    return Context(Rng(0), cache, tokenizer, 257, batch=3, length=20).having(**changes)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) and a.text_bytes == b.text_bytes


def test_it_fulfils_its_contract(made: Any) -> None:
    part, ctx, source = made
    assert part.card.summary
    assert isinstance(source, Source)
    assert isinstance(source.batches(ctx), Batches)
    assert Stateful in part.provides
    assert isinstance(source.batches(ctx), Stateful)
    heldout = source.heldout()
    assert heldout
    assert all(isinstance(domain, HeldOut) for domain in heldout.values())


def test_batches_have_the_promised_shape(made: Any) -> None:
    part, ctx, source = made
    vocabulary = part.vocab_size or ctx.vocab_size
    stream = source.batches(ctx)
    for batch in (next(stream) for _ in range(30)):
        assert batch.inputs.shape == batch.targets.shape == (ctx.batch, ctx.length)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert int(batch.inputs.min()) >= 0
        assert int(batch.inputs.max()) < vocabulary
        follows = batch.inputs[:, 1:] == batch.targets[:, :-1]
        documents = batch.columns.get("documents", torch.zeros_like(batch.inputs))
        assert follows[documents[:, 1:] == documents[:, :-1]].all()
        assert 0 < batch.text_bytes <= batch.targets.numel()  # tokens are bytes or ends of text


def test_the_stream_is_a_function_of_seed_and_position(made: Any) -> None:
    _, ctx, source = made
    first, again = source.batches(ctx), source.batches(ctx)
    other = source.batches(ctx.having(rng=Rng(1)))
    pairs = [(next(first), next(again), next(other)) for _ in range(20)]
    assert all(same(a, b) for a, b, _ in pairs)
    assert not all(same(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("position", [0, 1, 7, 50, 333])
def test_a_resumed_stream_goes_on_identically(made: Any, position: int) -> None:
    _, ctx, source = made
    stream = source.batches(ctx)
    for _ in range(position):
        next(stream)
    state = json.loads(json.dumps(stream.state_dict()))
    wanted = [next(stream) for _ in range(40)]
    resumed = source.batches(ctx)
    resumed.load_state_dict(state)
    assert all(same(next(resumed), batch) for batch in wanted)


def test_building_again_gives_the_same(made: Any, tmp_path: Path) -> None:
    part, ctx, source = made
    for cache in (ctx.cache, tmp_path):  # from the cache, and anew
        again = part.build(ctx.having(cache=cache))
        assert again.fingerprint == source.fingerprint
        assert same(next(again.batches(ctx)), next(source.batches(ctx)))


def test_a_position_in_changed_data_is_refused(made: Any) -> None:
    _, ctx, source = made
    state = source.batches(ctx).state_dict()
    changed = {key: "0" * 64 if value == source.fingerprint else value for key, value in state.items()}
    assert changed != state
    with pytest.raises(DataError, match="has changed"):
        source.batches(ctx).load_state_dict(changed)


def test_held_out_text_is_predicted_once_from_the_end_of_text_on(made: Any) -> None:
    _, _, source = made
    end = source.tokenizer.eot
    texts: list[str] = []
    for domain in source.heldout().values():
        batches = list(domain.windows(17, 4))
        assert int(batches[0].inputs[0, 0]) == end
        targets: list[int] = []
        inputs: list[int] = []
        for batch in batches:
            mask = torch.ones_like(batch.targets, dtype=torch.bool) if batch.mask is None else batch.mask
            targets += batch.targets[mask].tolist()
            inputs += batch.inputs[mask].tolist()
        assert targets[-1] == end
        assert inputs[1:] == targets[:-1]
        assert sum(batch.text_bytes for batch in batches) == domain.text_bytes
        assert sum(batch.tokens for batch in batches) == len(targets)
        ends = [-1, *np.flatnonzero(np.array(targets) == end).tolist()]
        texts += [source.tokenizer.decode(targets[a + 1 : b]) for a, b in itertools.pairwise(ends)]
    assert texts == list(source.heldout_text())
    assert sum(len(text.encode()) for text in texts) == sum(d.text_bytes for d in source.heldout().values())


def test_held_out_documents_are_documents_and_not_in_training(made: Any) -> None:
    part, _, source = made
    part = getattr(part, "text", part)  # of packed documents, where they come from
    if not hasattr(part, "documents"):
        pytest.skip("holds tokens alone: unit/data/test_engine_verbs.py compares them with what they were made of")
    documents = {document.text: document for document in part.documents()}
    held = list(source.heldout_text())
    train = set(source.train_text())
    assert set(held) <= set(documents)
    groups = {documents[text].group for text in held}
    if part.deduplicate:
        assert not groups & {documents[text].group for text in train}
        assert not set(held) & train


def test_it_describes_itself_in_json(made: Any) -> None:
    _, _, source = made
    facts = json.loads(json.dumps(source.describe()))
    assert facts["fingerprint"] == source.fingerprint
    assert set(facts["heldout"]) == set(source.heldout())
    for side in ("train", "heldout", "evaluated"):
        for amount in facts[side].values():
            assert amount["tokens"] == amount["text_bytes"] + amount["documents"]


def test_the_entropy_is_stated_where_it_is_known(made: Any) -> None:
    part, _, source = made
    part = getattr(part, "text", part)
    assert source.entropy_per_byte == part.entropy_per_byte
    assert (part.entropy_per_byte is not None) == (part.name in ("pcfg", "hmm"))
