"""Exact theory against closed forms here, and against recorded oracles where they are at hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from isoflop.optim import linearization as lin
from isoflop.optim.theory import curvature
from isoflop.optim.theory import kronecker as kron
from isoflop.optim.theory.linear_regression import LinearRegression, exponential_weights, tail_weights


def recorded(shared: Path, name: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((shared / "data/optim/theory" / f"{name}.json").read_text())
    return tree


# ---------------------------------------------------------------- SGD on linear regression


@pytest.mark.parametrize("name", ["linreg_a", "linreg_b"])
def test_recorded_risks(name: str, shared: Path) -> None:
    oracle = recorded(shared, name)
    exact, rates, batch = oracle["exact"], oracle["lrs"], oracle["batch"]
    problem = LinearRegression(np.array(oracle["lam"]), np.array(oracle["w0_minus_wstar"]), oracle["sigma2"])
    built = LinearRegression.power_law(len(oracle["lam"]), oracle["capacity_a"], oracle["source_b"], oracle["sigma2"])
    np.testing.assert_allclose(built.spectrum, problem.spectrum, rtol=1e-12)
    np.testing.assert_allclose(built.offset, problem.offset, rtol=1e-12)
    assert problem.risk(problem.squares(rates, batch))[-1] == pytest.approx(exact["excess_risk_last"], rel=1e-8)
    averages = {
        "tail_avg": tail_weights(len(rates), oracle["tail_fraction"]),
        "full_avg": tail_weights(len(rates), 1.0),
        "ewa": exponential_weights(len(rates), oracle["ewa_tau"]),
    }
    for key, weights in averages.items():
        found = problem.risk_of_average(rates, batch, weights)
        assert found == pytest.approx(exact[f"excess_risk_{key}"], rel=1e-8)


def test_one_step_by_hand() -> None:
    problem = LinearRegression(np.array([0.5, 2.0]), np.array([1.0, -1.0]), noise=0.3)
    squares = problem.squares([0.1], batch=2)[1]
    spread = [0.5 * (0.5 + 2.5 + 0.3), 2.0 * (2.0 + 2.5 + 0.3)]
    by_hand = [(1 - 0.05) ** 2 + 0.005 * spread[0], (1 - 0.2) ** 2 + 0.005 * spread[1]]
    np.testing.assert_allclose(squares, by_hand, rtol=1e-12)
    mixed = problem.risk_of_average([0.1], 2, np.array([0.25, 0.75]))
    cross = np.array([0.95, 0.8])
    expected = 0.5 * problem.spectrum @ (0.0625 + 2 * 0.25 * 0.75 * cross + 0.5625 * squares)
    assert mixed == pytest.approx(expected, rel=1e-12)
    assert problem.risk_of_average([0.1], 2, np.array([0.0, 1.0])) == pytest.approx(problem.risk(squares))
    with pytest.raises(ValueError, match="2 iterates"):
        problem.risk_of_average([0.1], 2, np.array([1.0]))


def test_weights_sum_to_one() -> None:
    for weights in (tail_weights(10, 0.3), tail_weights(10, 1.0), exponential_weights(10, 0.9)):
        assert len(weights) == 11
        assert weights.sum() == pytest.approx(1)
    assert (tail_weights(9, 0.3) > 0).sum() == 3


# ---------------------------------------------------------------- Kronecker factors


@pytest.mark.parametrize("name", ["kron_a", "kron_b"])
def test_recorded_similarities(name: str, shared: Path) -> None:
    oracle = recorded(shared, name)
    g = np.load(shared / "data/optim/theory" / f"{name}.npz")["G"]
    m, n = g.shape[1:]
    h, (left, right) = kron.second_moment(g), kron.grams(g)
    assert kron.cosine(h, np.kron(*kron.optimal(h, m, n))) == pytest.approx(oracle["cos_optimal_kronecker"], rel=1e-8)
    assert kron.cosine(h, np.kron(left, right)) == pytest.approx(oracle["cos_shampoo_squared_LkronR"], rel=1e-8)
    halves = np.kron(kron.root(left), kron.root(right))
    assert kron.cosine(h, halves) == pytest.approx(oracle["cos_shampoo_L12kronR12"], rel=1e-8)
    for steps, expected in enumerate(oracle["cos_power_iteration_simultaneous_1to6"], start=1):
        found = kron.cosine(h, np.kron(*kron.power_iteration(h, m, n, steps)))
        assert found == pytest.approx(expected, rel=1e-8)
    batches = g.reshape(-1, oracle["batch_size"], m, n).mean(1)
    assert kron.cosine(h, np.kron(*kron.grams(batches))) == pytest.approx(oracle["cos_batch_LkronR_vs_H_persample"])
    assert kron.diagonal_share(h) == pytest.approx(oracle["diag_adam_cos"], rel=1e-8)
    turned = kron.rotated(g)[0]
    assert kron.diagonal_share(kron.second_moment(turned)) == pytest.approx(oracle["cos_soap_diag_in_eigenbasis"])


def test_kronecker_identities() -> None:
    g = np.random.default_rng(0).normal(size=(50, 4, 3)) * np.array([1.0, 2.0, 5.0])
    h, (left, right) = kron.second_moment(g), kron.grams(g)
    one = kron.power_iteration(h, 4, 3, 1)
    np.testing.assert_allclose(one[0], left, atol=1e-12)
    np.testing.assert_allclose(one[1], right, atol=1e-12)
    turned, values, _ = kron.rotated(g)
    np.testing.assert_allclose((turned**2).mean(0).sum(1), values, atol=1e-12)
    exact = np.kron(left, right)
    np.testing.assert_allclose(np.kron(*kron.optimal(exact, 4, 3)), exact, atol=1e-9)
    assert kron.cosine(h, np.kron(*kron.optimal(h, 4, 3))) >= kron.cosine(h, exact)


# ---------------------------------------------------------------- curvature


def tanh_network(theta: Tensor, x: Tensor, dims: list[int]) -> Tensor:
    start = 0
    for layer, (d_in, d_out) in enumerate(pairwise(dims)):
        w = theta[start : start + d_in * d_out].view(d_out, d_in)
        start += d_in * d_out
        x = x @ w.T
        x = torch.tanh(x) if layer < len(dims) - 2 else x
    return x


def test_recorded_curvature(shared: Path) -> None:
    oracle = recorded(shared, "gn_a")
    arrays = np.load(shared / "data/optim/theory/gn_a.npz")
    t = {key: torch.from_numpy(arrays[key]) for key in arrays}
    dims = oracle["dims"]
    close: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}

    def outputs(theta: Tensor) -> Tensor:
        return tanh_network(theta, t["X"], dims)

    def loss(z: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(z, t["y"])

    def losses(theta: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs(theta), t["y"], reduction="none")

    theta, v = t["theta"], t["v"]
    gradient = torch.func.grad(lambda x: loss(outputs(x)))(theta)
    matrix = curvature.gauss_newton_matrix(outputs, loss, theta)
    torch.testing.assert_close(gradient, t["grad"], **close)
    torch.testing.assert_close(matrix, t["G"], **close)
    torch.testing.assert_close(lin.gauss_newton_product(outputs, loss, theta, v), t["Gv"], **close)
    torch.testing.assert_close(curvature.hessian_product(lambda x: loss(outputs(x)), theta, v), t["Hv"], **close)
    torch.testing.assert_close(curvature.empirical_fisher_product(losses, theta, v), t["efisher_v"], **close)
    blocks = [a * b for a, b in pairwise(dims)]
    full = curvature.damped_step(matrix, gradient, oracle["damping"])
    layerwise = curvature.damped_step(matrix, gradient, oracle["damping"], blocks)
    torch.testing.assert_close(full, t["gn_step"], **close)
    torch.testing.assert_close(layerwise, t["layerwise_step"], **close)
    for step, key in ((full, "gn"), (full / 2, "gn_half"), (layerwise, "layerwise_gn")):
        assert loss(outputs(theta + step)).item() == pytest.approx(oracle[f"loss_after_{key}"], rel=1e-8)


def test_curvature_of_least_squares_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    b, at, v = (torch.randn(k, generator=generator, dtype=torch.float64) for k in (7, 3, 3))

    def outputs(theta: Tensor) -> Tensor:
        return a @ theta

    def loss(z: Tensor) -> Tensor:
        return ((z - b) ** 2).sum() / 2

    torch.testing.assert_close(lin.gauss_newton_product(outputs, loss, at, v), a.T @ a @ v)
    torch.testing.assert_close(curvature.hessian_product(lambda x: loss(outputs(x)), at, v), a.T @ a @ v)
    for form in ("quadratic", "prox_linear"):
        slope = lin.model_gradient(outputs, loss, at, v, form)  # type: ignore[arg-type]
        torch.testing.assert_close(slope, a.T @ (a @ (at + v) - b))
    step = curvature.damped_step(curvature.gauss_newton_matrix(outputs, loss, at), a.T @ (a @ at - b), 0.0)
    torch.testing.assert_close(at + step, torch.linalg.lstsq(a, b).solution)
