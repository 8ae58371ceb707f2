"""What every part of the slot pattern must do, in itself and in every mixer that takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Causal, Documents, Pattern, within
from isoflop.core.registry import get, names
from isoflop.ledger.audit import Audit
from isoflop.models.attend import attend, dense_mask, fused_attend
from transformer_toys import VOCAB, context

FIELDS: dict[str, dict[str, Any]] = {
    "window": {"size": 5},
    "prefix": {"size": 7},
    "blocks": {"size": 4},
    "block_diffusion": {"size": 4},
}
"""Fields with which each pattern shows itself on short sequences."""
OF_ROWS = ("prefix", "blocks", "block_diffusion")
"""Patterns that count from the beginning of a row, and not of each document in it."""
PATTERNS = names("pattern")
MIXERS = names("mixer")


def pattern_of(name: str) -> Pattern:
    return get("pattern", name)(**FIELDS.get(name, {}))  # type: ignore[return-value]


def model_of(mixer: str, **fields: Any) -> Any:
    part = get("model", "transformer")(d_model=32, layers=2, mixer={"name": mixer, **fields})  # type: ignore[call-arg]
    return part, part.build(context())  # type: ignore[attr-defined]


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("length", [1, 6, 23])
@pytest.mark.parametrize("name", PATTERNS)
def test_its_pairs_are_those_of_its_matrix_and_nobody_is_blind(name: str, length: int) -> None:
    pattern = pattern_of(name)
    assert pattern.card.summary
    dense = pattern.dense(length)
    assert dense.shape == (length, length)
    assert dense.dtype == bool
    assert pattern.pairs(length) == dense.sum()
    assert dense.any(1).all()
    assert np.array_equal(pattern.rows(length // 2, length, length), dense[length // 2 :])
    assert hash(pattern) == hash(pattern_of(name))


@pytest.mark.parametrize("other", [*PATTERNS, None])
@pytest.mark.parametrize("name", [*PATTERNS, None])
def test_two_patterns_allow_what_both_allow(name: str | None, other: str | None) -> None:
    inner, outer = (None if n is None else pattern_of(n) for n in (name, other))
    both = within(inner, outer) or Causal()
    expected = (inner or outer or Causal()).dense(11) & (outer or Causal()).dense(11)
    assert np.array_equal(both.dense(11), expected)
    assert both.pairs(11) == expected.sum()


@pytest.mark.parametrize("length", [21, 150])  # one block of queries, and several
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_obeys_it_and_is_charged_what_it_executes(mixer: str, name: str, length: int) -> None:
    pattern = pattern_of(name)
    places = pattern.places(length) is not None  # which a mask does not tell
    turns = "position" in get("mixer", mixer).model_fields
    part, model = model_of(mixer, **({"position": {"name": "none"}} if places and turns else {}))
    if not part.mixer.takes(pattern):
        pytest.skip(f"{mixer} does not take {name}")
    x = tokens(2, length)
    with Audit() as audit:
        out = model(x, pattern)
        out.square().mean().backward()
    work = part.work(2, length, VOCAB, pattern)
    assert audit.total() == work.total.executed
    assert model.flops(2, length, pattern) == work
    causal = part.work(2, length, VOCAB).total.flops
    assert (work.total.flops - causal) == 6 * 2 * 2 * 32 * 2 * (pattern.pairs(length) - length * (length + 1) // 2)
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    plain = model(x, dense_mask(pattern, length, x.device))  # one block of everything, hidden by a mask
    plain.square().mean().backward()
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-5)
    for gradient, (key, p) in zip(gradients, model.named_parameters(), strict=True):
        if not (places and key.endswith("mixer.bias")):  # of distances, which begins with zeros
            torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*PATTERNS, None])
@pytest.mark.parametrize("mixer", MIXERS)
def test_packed_documents_give_the_logits_of_separate_ones(mixer: str, name: str | None) -> None:
    part, model = model_of(mixer)
    pattern = None if name is None else pattern_of(name)
    if name in OF_ROWS or not part.mixer.takes(pattern):
        pytest.skip("a prefix or a block is the row's, not each document's")
    if not part.mixer.isolates:
        pytest.skip(f"{mixer} keeps no documents apart, and says so")
    lengths = [5, 1, 9, 70]
    x = tokens(1, sum(lengths))
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    with Audit() as audit, torch.no_grad():
        packed = model(x, Documents(ids, pattern))
    assert audit.total() == part.work(1, sum(lengths), VOCAB, pattern).forward.executed
    apart = [model(piece, pattern) for piece in x.split(lengths, 1)]
    torch.testing.assert_close(packed, torch.cat(apart, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("positions", [None, 16])
@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_both_copies_of_a_text_stand_at_its_places(mixer: str, positions: int | None) -> None:
    """What the copies hold alike, they make alike: the clean blocks are a text that sees its own blocks alone."""
    part: Any = get("model", "transformer")
    if not get("mixer", mixer)().takes(pattern_of("block_diffusion")):  # type: ignore[attr-defined]
        pytest.skip(f"{mixer} does not take block_diffusion")
    model = part(d_model=32, layers=2, mixer={"name": mixer}, positions=positions).build(context())
    x = tokens(2, 16)
    blocks = x.view(2, 4, 1, 4)
    both = torch.cat((torch.zeros_like(blocks), blocks), 2).flatten(1)
    found = model(both, pattern_of("block_diffusion")).view(2, 4, 2, 4, -1)[:, :, 1].flatten(1, 2)
    torch.testing.assert_close(found, model(x, pattern_of("blocks")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_cached_steps_within_a_window_equal_one_forward(mixer: str) -> None:
    if "pattern" not in get("mixer", mixer).model_fields:
        pytest.skip(f"{mixer} has no pattern of its own")
    _, model = model_of(mixer, pattern={"name": "window", "size": 4})
    x = tokens(2, 19)
    cache = model.make_cache(2, 19)
    pieces = [model.step(piece, cache) for piece in x.split([6, 1, 3, *[1] * 9], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(x), rtol=0, atol=1e-5)
    changed = x.clone()
    changed[:, 0] = (x[:, 0] + 1) % VOCAB
    assert torch.equal(model(x)[:, 10:], model(changed)[:, 10:]), "two layers of four tokens reach no farther"


@pytest.mark.parametrize("kind", ["rule", "documents", "mask"])
@pytest.mark.parametrize("name", [*PATTERNS, None])
def test_the_attention_of_other_devices_sees_the_same(name: str | None, kind: str) -> None:
    """What runs on a GPU gives on the CPU what the CPU's own gives, whatever says who sees whom."""
    length, heads, pattern = 70, 4, None if name is None else pattern_of(name)
    ids = torch.stack([torch.arange(length) // 9, torch.arange(length) // 31])
    mask = torch.rand(2, length, length, generator=torch.Generator().manual_seed(1)) < 0.5
    kinds = {"rule": pattern, "documents": Documents(ids, pattern), "mask": mask | torch.eye(length, dtype=torch.bool)}
    qkv = torch.randn(2, length, heads + 2 * 2, 6, generator=torch.Generator().manual_seed(2))
    angles = torch.outer(torch.arange(length), torch.tensor([1.0, 0.1, 0.01]))
    inputs = (qkv, (angles.cos(), angles.sin()), heads, kinds[kind])
    torch.testing.assert_close(fused_attend(*inputs), attend(*inputs), rtol=0, atol=2e-6)
