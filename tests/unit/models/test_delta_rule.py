"""The gated delta rule: chunks, steps and the definition agree, with their gradients; its price."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.ledger.audit import Audit
from isoflop.models import delta_rule
from isoflop.models.delta_rule import GONE, chunks, delta_work, gated_delta, gated_delta_step, reference

LENGTHS = [1, 2, 5, 64, 65, 130]


def drawn(rows: int, length: int, d_k: int, d_v: int, seed: int = 0, fade: float = 1.0) -> list[Tensor]:
    """Queries, keys, values, betas, decays and a memory, float64."""
    draw = torch.Generator().manual_seed(seed)
    of = functools.partial(torch.randn, generator=draw, dtype=torch.float64)
    q, k = (torch.nn.functional.normalize(of(rows, length, d_k), dim=-1) for _ in range(2))
    decay = -fade * of(rows, length).exp()
    return [q, k, of(rows, length, d_v), of(rows, length).sigmoid(), decay, of(rows, d_k, d_v)]


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_are_the_recurrence_with_their_gradients(length: int, remembers: bool) -> None:
    given_ = [x.requires_grad_() for x in drawn(3, length, 5, 7, fade=0.1)]
    found, wanted = (rule(*given_[: 5 + remembers]) for rule in (gated_delta, reference))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    weights = [torch.randn_like(x) for x in found]
    grads = [torch.autograd.grad(_scored(out, weights), given_[: 5 + remembers]) for out in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def _scored(out: tuple[Tensor, Tensor], weights: list[Tensor]) -> Tensor:
    return torch.stack([(x * w).sum() for x, w in zip(out, weights, strict=True)]).sum()


@settings(max_examples=10, deadline=None)
@given(pieces=st.lists(st.integers(1, 90), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_any_split_is_the_whole(pieces: list[int], seed: int) -> None:
    *rows, memory = drawn(2, sum(pieces), 4, 3, seed)
    whole, last = reference(*rows, memory)
    found = []
    for q, k, v, beta, decay in zip(*(x.split(pieces, 1) for x in rows), strict=True):
        rule = gated_delta_step if q.shape[1] == 1 else gated_delta
        out, memory = rule(q, k, v, beta, decay, memory)
        found.append(out)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(memory, last, rtol=0, atol=1e-10)


@pytest.mark.parametrize("fade", [0.0, 1e-4, 3.0, 300.0])
def test_fp32_bears_any_decay(fade: float) -> None:
    rows = drawn(4, 150, 8, 8, fade=fade)
    wanted, memory = reference(*rows)
    found, last = gated_delta(*(x.float() for x in rows))
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(last.double(), memory, rtol=0, atol=1e-5)


def test_nothing_is_left_behind_what_is_gone_and_what_follows_is_exact() -> None:
    """In fp32 the logarithms' sum would have lost what decays behind it."""
    q, k, v, beta, decay, memory = (x.float() for x in drawn(3, 60, 6, 6, fade=1e-3))
    for place in (7, 8, 30):
        decay[:, place] = GONE
    found, _ = gated_delta(q, k, v, beta, decay, memory)
    alone, _ = reference(*(x[:, 30:].double() for x in (q, k, v, beta, decay)))
    torch.testing.assert_close(found[:, 30:].double(), alone, rtol=0, atol=1e-6)


def test_equal_keys_are_no_danger() -> None:
    """One value after another in the place of the last."""
    k = torch.ones(1, 200, 4) / 2
    v = torch.arange(200.0).view(1, 200, 1)
    found, _ = gated_delta(k, k, v, torch.ones(1, 200), torch.zeros(1, 200))
    torch.testing.assert_close(found, v, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("length", [1, 40, 64, 65, 200])
def test_it_is_charged_as_it_is_executed(length: int) -> None:
    rows = [x.requires_grad_() for x in drawn(3, length, 4, 6)[:5]]
    with Audit() as audit:
        gated_delta(*rows)[0].sum().backward()
    works = delta_work(3, length, 4, 6)
    assert audit.total() == sum(work.total.executed for work in works)
    assert sum(work.forward.flops for work in works) == 6 * 3 * length * 4 * 6
    assert all(work.backward.flops == 2 * work.forward.flops for work in works)


@given(length=st.integers(1, 10_000))
def test_chunks_are_even(length: int) -> None:
    count, size = chunks(length)
    assert (count - 1) * size < length <= count * size
    assert size <= delta_rule.CHUNK
