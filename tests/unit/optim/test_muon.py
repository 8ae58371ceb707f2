"""Muon: what is orthogonalised apart and together, and that it does as torch's does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import isoflop.optim as optim
from isoflop.core.registry import get
from isoflop.core.roles import Group
from isoflop.optim.orthogonal import QUINTIC, orthogonalise, orthogonalise_all
from isoflop.optim.state import OptimizerError
from optim_toy import toy_context


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_fused_and_stacked_matrices_are_orthogonalised_apart() -> None:
    arguments: dict[str, Any] = {"lr": 0.1, "ns_dtype": torch.float64}
    fused = torch.nn.Parameter(torch.zeros(12, 5, dtype=torch.float64))
    parts = [torch.nn.Parameter(torch.zeros(n, 5, dtype=torch.float64)) for n in (4, 4, 2, 2)]
    fused.grad = normal(12, 5)
    for x, g in zip(parts, fused.grad.split([4, 4, 2, 2]), strict=True):
        x.grad = g.clone()
    optim.Muon([{"params": [fused], "split_sizes": (8, 4), "num_heads": 2}], **arguments).step()
    optim.Muon(parts, **arguments).step()
    torch.testing.assert_close(fused.detach(), torch.cat([x.detach() for x in parts]))

    stack = torch.nn.Parameter(torch.zeros(2, 4, 5, dtype=torch.float64))
    stack.grad = torch.stack([parts[0].grad, parts[1].grad])  # type: ignore[list-item]
    optim.Muon([stack], **arguments).step()
    torch.testing.assert_close(stack.detach(), torch.stack([parts[0].detach(), parts[1].detach()]))


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_part_agrees_with_torchs_muon(nesterov: bool) -> None:
    """Over 50 steps, for matrices that are iterated as a stack, alone, and by halves, to bfloat16's precision."""
    shapes = [(20, 8), (8, 20), (20, 8), (9, 9), (260, 300), (330, 320)]
    starts = [normal(*shape, seed=i, dtype=torch.float32) for i, shape in enumerate(shapes)]
    mine, theirs = ([torch.nn.Parameter(x.clone()) for x in starts] for _ in range(2))
    groups = (Group("hidden", tuple(map(str, range(len(shapes)))), tuple(mine)),)
    part = get("optimizer", "muon")(lr=0.02, weight_decay=0.1, nesterov=nesterov)
    ours = part.build(toy_context(groups))  # type: ignore[attr-defined]
    assert isinstance(ours.members[0], optim.Muon)
    arguments: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov}
    arguments["adjust_lr_fn"] = "match_rms_adamw"
    torchs = torch.optim.Muon(theirs, **arguments)
    for t in range(50):
        for params, rule in ((mine, ours), (theirs, torchs)):
            for i, p in enumerate(params):
                p.grad = normal(*p.shape, seed=100 * t + i, dtype=torch.float32)
            rule.step()
    for p, q, start in zip(mine, theirs, starts, strict=True):
        assert (p - q).norm() < 0.02 * (q - start).norm()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12))
def test_matrices_are_orthogonalised_alike_together_and_alone(shapes: list[tuple[int, int]]) -> None:
    matrices = [normal(*shape, seed=i) for i, shape in enumerate([*shapes, (321, 330), (260, 270)])]
    together = orthogonalise_all(matrices, 3, QUINTIC, torch.float64, 1e-7)
    for g, x in zip(matrices, together, strict=True):
        assert x.shape == g.shape
        torch.testing.assert_close(x, orthogonalise(g, 3, QUINTIC, torch.float64))


def test_a_convolution_is_scaled_as_the_matrix_it_is_flattened_to() -> None:
    p, q = (torch.nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in ((40, 2, 3, 3), (40, 18)))
    for x in (p, q):
        x.grad = normal(40, 18).view(x.shape)
        optim.Muon([x], lr=1.0, ns_dtype=torch.float64).step()
    assert torch.equal(p.detach().flatten(1), q.detach())


def test_what_muon_cannot_treat_is_refused() -> None:
    with pytest.raises(OptimizerError, match=r"parameter b of group 0.*matrices"):
        optim.Muon([("b", torch.nn.Parameter(torch.zeros(3)))])
    with pytest.raises(OptimizerError, match="cannot be split"):
        optim.Muon([torch.nn.Parameter(torch.zeros(6, 2))], split_sizes=(4, 4))


def test_newton_schulz_with_other_coefficients() -> None:
    g = normal(5, 9)
    cubic = orthogonalise(g, steps=40, coefficients=(1.5, -0.5, 0.0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(cubic, u @ v, rtol=1e-8, atol=1e-8)
    each = orthogonalise(g, steps=3, coefficients=[(2.0, -1.5, 0.5), (1.5, -0.5, 0.0)], dtype=torch.float64)
    assert each.shape == (5, 9)
    with pytest.raises(ValueError, match="triples"):
        orthogonalise(g, coefficients=(1.0, 2.0))


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"ns_coefficients": given}
            for given in [(), [], (1, 2), [(1.0, 2.0, 3.0), (1.0, 2.0)], [1.0, (1.0, 2.0, 3.0)]]
        ),
        *({"split_sizes": given} for given in [[-1, 5], [0, 4], [2.0, 2.0]]),
    ],
    ids=str,
)
def test_what_a_step_would_stumble_over_is_refused_at_once(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(OptimizerError, match=key):
        optim.Muon([torch.nn.Parameter(torch.ones(4, 4))], **wrong)
