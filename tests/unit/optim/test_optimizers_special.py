"""What single optimizers promise beyond the contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import isoflop.optim as optim
from isoflop.core.registry import get
from isoflop.optim.eigenbases import by_cholesky, by_qr, first_basis, follow, merged_shape
from isoflop.optim.optimizers.gpa import reference as gpa_reference
from isoflop.optim.optimizers.sophia_g import reference as sophia_reference
from isoflop.optim.orthogonal import orthogonalise
from isoflop.optim.state import OptimizerError
from optim_toy import ToyProblem, params_of, take_steps, toy_context, toy_groups


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------- compiled passes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Lion", "AdEMAMix", "ScheduleFreeAdamW"])
def test_a_compiled_pass_agrees_and_does_not_recompile(name: str) -> None:
    p, q = (torch.nn.Parameter(normal(70, 3, dtype=torch.float32)) for _ in range(2))
    eager, compiled = (getattr(optim, name)([x], lr=1e-2, weight_decay=0.1) for x in (p, q))
    compiled.compile()
    for t in range(12):
        for rule, x in ((eager, p), (compiled, q)):
            rule.param_groups[0]["lr"] = 1e-2 / (t + 1)
            x.grad = normal(70, 3, seed=t, dtype=torch.float32)
            rule.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


# ---------------------------------------------------------------- MARS


def test_exact_mars_looks_back_with_the_same_batch() -> None:
    p = torch.nn.Parameter(normal(3, 3))
    optimizer = optim.MARS([p], lr=0.1, gamma=0.5, betas=(0.5, 0.9), is_approx=False)
    points: list[torch.Tensor] = []
    shifts = [normal(3, 3, seed=t) for t in range(4)]

    def closure_at(t: int) -> Any:
        def closure() -> float:
            points.append(p.detach().clone())
            p.grad = p.detach() ** 3 - 0.1 * shifts[t]
            return 0.0

        return closure

    starts = []
    for t in range(4):
        starts.append(p.detach().clone())
        optimizer.step(closure_at(t))
    visited = [starts[0]] + [x for t in range(1, 4) for x in (starts[t - 1], starts[t])]
    assert all(torch.equal(a, b) for a, b in zip(points, visited, strict=True))
    expected = starts[2] ** 3 - 0.1 * shifts[3]
    torch.testing.assert_close(optimizer.state[p]["last_grad"], expected)
    with pytest.raises(OptimizerError, match="closure"):
        optimizer.step()


def test_exact_mars_runs_under_a_problem() -> None:
    groups = toy_groups()
    rule = get("optimizer", "mars")(is_approx=False).build(toy_context(groups))  # type: ignore[attr-defined]
    losses = take_steps(rule, groups, 0, 40)
    assert sum(losses[-5:]) < sum(losses[:5])
    measured = sum(t.numel() * 4 for s in rule.optimizer.state.values() for t in s.values())
    from isoflop.core.roles import shapes_of

    assert get("optimizer", "mars")(is_approx=False).state_bytes(shapes_of(groups)) == measured  # type: ignore[attr-defined]


def test_updates_in_half_precision_do_not_round_the_weights() -> None:
    p = torch.nn.Parameter(1 + 1e-3 * normal(6, 6, dtype=torch.float32))
    before = p.detach().clone()
    optimizer = optim.MARS([p], lr=1e-5, mars_type="mars-shampoo")
    p.grad = normal(6, 6, seed=1, dtype=torch.float32)
    optimizer.step()
    assert 1e-6 < (p.detach() - before).abs().max() < 1e-4


def test_in_place_accumulation_does_not_remove_the_correction() -> None:
    p, q = (torch.nn.Parameter(normal(4, 4)) for _ in range(2))
    rules = [optim.MARS([x], lr=0.1, gamma=0.1) for x in (p, q)]
    p.grad = torch.zeros(4, 4, dtype=torch.float64)
    for t in range(3):
        p.grad.copy_(normal(4, 4, seed=t))
        q.grad = normal(4, 4, seed=t)
        for rule in rules:
            rule.step()
    assert torch.equal(p, q)


def test_the_dtype_of_mars_iteration_may_be_chosen() -> None:
    g, ends = normal(6, 9), {}
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        p = torch.nn.Parameter(torch.zeros(6, 9, dtype=torch.float64))
        optimizer = optim.MARS([p], lr=1.0, mars_type="mars-shampoo", gamma=0.0)
        optimizer.param_groups[0]["ns_dtype"] = str(dtype).removeprefix("torch.")
        p.grad = g / g.norm()
        optimizer.step()
        ends[dtype] = -p.detach()
    exact = orthogonalise(g / g.norm(), dtype=torch.float64, eps=1e-8)
    torch.testing.assert_close(ends[torch.float64], exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ends[torch.float32], exact, rtol=1e-4, atol=1e-4)
    assert (ends[torch.bfloat16] - exact).abs().max() > 1e-3


# ---------------------------------------------------------------- Sophia-G


def test_sophia_by_hand_is_the_reference() -> None:
    start, hyper = normal(5, 4), {"lr": 0.02, "betas": (0.9, 0.95), "rho": 0.05, "weight_decay": 0.1, "bs": 7}
    p = torch.nn.Parameter(start.clone())
    optimizer = optim.SophiaG([p], **hyper)
    sampled = [normal(5, 4, seed=100 + t) if t % 3 == 2 else None for t in range(20)]
    gradients = [normal(5, 4, seed=t) for t in range(20)]
    path = list(sophia_reference(start, gradients, sampled=sampled, **hyper))
    for t in range(20):
        p.grad = gradients[t]
        optimizer.step()
        torch.testing.assert_close(p.detach(), path[t], rtol=1e-10, atol=1e-12)
        if sampled[t] is not None:
            p.grad = sampled[t]
            optimizer.update_hessian()


def test_sophia_resamples_on_time_and_needs_to() -> None:
    groups = toy_groups()
    rule = get("optimizer", "sophia_g")(every=4).build(toy_context(groups))  # type: ignore[attr-defined]
    calls = []

    class Counting(ToyProblem):
        def resample(self) -> None:
            calls.append(rule.param_groups[0]["steps"])
            super().resample()

    for t in range(9):
        rule.step(Counting(groups, t))
    assert calls == [4, 8]


# ---------------------------------------------------------------- schedule-free and primal averaging


def test_with_constant_rate_x_is_the_mean_of_z() -> None:
    p = torch.nn.Parameter(normal(6))
    optimizer = optim.ScheduleFreeSGD([p], lr=0.1)
    seen = []
    for t in range(10):
        p.grad = normal(6, seed=t)
        optimizer.step()
        seen.append(optimizer.state[p]["z"].clone())
    training = p.detach().clone()
    with optimizer.evaluation_weights():
        torch.testing.assert_close(p.detach(), torch.stack(seen).mean(0))
        with pytest.raises(OptimizerError, match="train"):
            optimizer.step()
    assert torch.equal(p, training)


def test_eval_and_train_are_idempotent_and_inverse() -> None:
    p = torch.nn.Parameter(normal(6))
    optimizer = optim.GPA([p], lr=0.1)
    p.grad = normal(6, seed=1)
    optimizer.step()
    y = p.detach().clone()
    optimizer.train()
    assert torch.equal(p, y)
    optimizer.eval()
    x = p.detach().clone()
    optimizer.eval()
    assert torch.equal(p, x)
    assert not torch.equal(x, y)
    optimizer.train()
    torch.testing.assert_close(p.detach(), y)


@pytest.mark.parametrize("coefficients", [(0.7, 0.98), (1.0, 1.0)])
def test_primal_averaging_may_decay_its_training_point(coefficients: tuple[float, float]) -> None:
    start, hyper = normal(5, 4), {"lr": 0.02, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    hyper |= dict(zip(("train_interp_coeff", "eval_interp_coeff"), coefficients, strict=True))
    ends = {}
    for at_y in (False, True):
        p = torch.nn.Parameter(start.clone())
        optimizer = optim.GPA([p], **hyper, use_wd_on_y=at_y)
        gradients = [normal(5, 4, seed=t) for t in range(20)]
        path = gpa_reference(start, gradients, **hyper, use_wd_on_y=at_y)
        for g, expected in zip(gradients, path, strict=True):
            p.grad = g
            optimizer.step()
            torch.testing.assert_close(p.detach(), expected, rtol=1e-9, atol=1e-11)
        ends[at_y] = p.detach().clone()
    assert not torch.allclose(ends[True], ends[False])
    if coefficients == (1.0, 1.0):  # the average never moves: decay of z cannot be seen, decay of y is all there is
        torch.testing.assert_close(ends[False], start)
        torch.testing.assert_close(ends[True], start * (1 - 0.02 * 0.1) ** 20)


def test_a_decaying_schedule_is_refused() -> None:
    class Recipe:
        class schedule:
            needs_horizon = True

    assert "constant" in get("optimizer", "schedule_free_adamw")().check(Recipe)[0]
    Recipe.schedule.needs_horizon = False
    assert get("optimizer", "schedule_free_adamw")().check(Recipe) == []


# ---------------------------------------------------------------- SOAP and its bases


def test_a_null_space_is_defined() -> None:
    g = normal(9, 4)
    basis = first_basis(g @ g.T)
    noisy = first_basis((g @ g.T) * (1 + 1e-15 * normal(9, 9, seed=3)) + 1e-16 * torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(basis.T @ basis, torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close((basis * noisy).sum(0).abs(), torch.ones(9, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(basis[:, :4] @ basis[:, :4].T @ g, g)


def test_following_keeps_null_directions() -> None:
    g = normal(9, 4)
    gram = g @ g.T
    basis = first_basis(gram)
    turned, order = follow(gram, basis, by_qr)
    assert sorted(order.tolist()) == list(range(9))
    torch.testing.assert_close(turned.T @ turned, torch.eye(9, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    overlap = (turned[:, 4:].T @ basis[:, 4:]).abs()
    assert overlap.max(1).values.min() > 1 - 1e-8


def test_cholesky_makes_the_same_columns_as_qr() -> None:
    near = torch.linalg.qr(normal(20, 20))[0] + 0.1 * normal(20, 20, seed=1)
    scaled = near * torch.logspace(0, -9, 20, dtype=torch.float64)
    a, b = by_cholesky(scaled), by_qr(scaled)
    torch.testing.assert_close(a, b * (a * b).sum(0).sign(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(a.T @ a, torch.eye(20, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    singular = torch.cat([near[:, :19], near[:, :1]], dim=1)
    again = by_cholesky(singular)
    torch.testing.assert_close(again.T @ again, torch.eye(20, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_soap_takes_the_same_steps_by_cholesky() -> None:
    ends = []
    for refresh in ("qr", "cholesky"):
        p = torch.nn.Parameter(normal(8, 8))
        optimizer = optim.SOAP([p], lr=1e-2, precondition_frequency=2, variant=optim.SOAPVariant(refresh=refresh))  # type: ignore[arg-type]
        for t in range(12):
            p.grad = normal(8, 8, seed=t)
            optimizer.step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-8)


def test_soap_reproduces_under_rounding_where_the_gram_matrix_is_rank_deficient() -> None:
    ends = []
    for noise in (0.0, 1e-10):
        p = torch.nn.Parameter(normal(12, 3))
        optimizer = optim.SOAP([p], lr=1e-2, precondition_frequency=3)
        for t in range(20):
            p.grad = normal(12, 3, seed=t) * (1 + noise * normal(12, 3, seed=t + 50))
            optimizer.step()
        ends.append(p.detach().clone())
    assert (ends[0] - ends[1]).abs().max() < 1e-5 * (ends[0] - normal(12, 3)).abs().max()


def test_merged_shapes() -> None:
    assert merged_shape((3, 4, 2), 6) == [3, 4, 2]
    assert merged_shape((3, 4, 2), 12) == [12, 2]
    assert merged_shape((3, 4, 2), 24) == [24]
    assert merged_shape((20, 1, 3), 6) == [20, 3]
    assert merged_shape((1, 1), 6) == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"variant": optim.SOAPVariant(one_sided=True)},
        {"variant": optim.SOAPVariant(factorized=True)},
        {"merge_dims": True, "max_precond_dim": 12},
        {"precondition_1d": True},
        {"variant": optim.SOAPVariant(stagger=True)},
        {"variant": optim.SOAPVariant(refresh="cholesky")},
        {"variant": optim.SOAPVariant(normalize_grads=True)},
        {"variant": optim.SOAPVariant(rotation_dtype=torch.bfloat16)},
    ],
    ids=str,
)
def test_soap_variants_learn(options: dict[str, Any]) -> None:
    groups = toy_groups()
    optimizer = optim.SOAP(params_of(groups), **{"lr": 0.03, "precondition_frequency": 4, **options})
    losses = take_steps(optimizer, groups, 0, 60)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    keys = {key for state in optimizer.state.values() for key in state}
    group, variant = optimizer.param_groups[0], options.get("variant", optim.SOAPVariant())
    assert ("exp_avg_sq_0" in keys) == variant.factorized
    assert group["stagger"] == variant.stagger
    assert group["rotation_dtype"] in (None, "bfloat16")
    if "precondition_1d" in options:
        assert "Q0" in optimizer.state[params_of(groups)[2]]
    restored = optim.SOAP(params_of(groups), **{"lr": 0.03, "precondition_frequency": 4, **options})
    restored.load_state_dict(optimizer.state_dict())


# ---------------------------------------------------------------- Shampoo and Adalayer


def test_shampoo_of_a_sum_and_of_large_dimensions() -> None:
    p = torch.nn.Parameter(normal(4, 30))
    optimizer = optim.Shampoo([p], lr=0.1, betas=(0.0, 1.0), max_preconditioner_dim=10, merge_dims=False)
    p.grad = normal(4, 30, seed=1)
    before = p.detach().clone()
    optimizer.step()
    u, s, v = torch.linalg.svd(p.grad, full_matrices=False)
    torch.testing.assert_close(before - p.detach(), 0.1 * u @ torch.diag(s**0.5) @ v, rtol=1e-6, atol=1e-8)
    assert set(optimizer.state[p]) == {"step", "exp_avg", "GG0", "root0"}
    with pytest.raises(OptimizerError, match="root"):
        optim.Shampoo([p], root=3)  # type: ignore[arg-type]


def test_adalayer_blocks_follow_names_roles_and_freezing() -> None:
    qkv, head, norm = (torch.nn.Parameter(normal(*s)) for s in ((6, 2), (5, 2), (2,)))
    groups = [
        {"params": [("att_proj.weight", qkv)]},
        {"params": [("out.weight", head)], "role": "head"},
        {"params": [("norm.weight", norm)], "role": "norm"},
    ]
    optimizer = optim.Adalayer(
        groups, lr=0.01, att_correction=True, lastlayer_correction=True, t_freeze=2, update_norm=True
    )
    history = []
    for t in range(4):
        for i, x in enumerate((qkv, head, norm)):
            x.grad = normal(*x.shape, seed=10 * t + i)
        optimizer.step()
        history.append([optimizer.state[x]["exp_avg_sq"].clone() for x in (qkv, head, norm)])
    assert [v.numel() for v in history[0]] == [3, 5, 1]
    frozen = [torch.equal(a, b) for a, b in zip(history[1], history[3], strict=True)]
    assert frozen == [True, False, False]
    first = qkv.grad.new_tensor([float((normal(6, 2, seed=0)[2 * j : 2 * j + 2] ** 2).mean()) for j in range(3)])  # type: ignore[union-attr]
    torch.testing.assert_close(history[0][0], first / 2)


def test_sgd_adalayer_has_two_rates() -> None:
    groups = toy_groups()
    chain = get("optimizer", "sgd_adalayer")(lr=0.5, lr_last=0.01).build(toy_context(groups))  # type: ignore[attr-defined]
    rates = {group["role"]: group["lr"] for group in chain.param_groups}
    assert rates == {"embedding": 0.5, "hidden": 0.5, "bias": 0.5, "head": 0.01, "norm": 0.01}


# ---------------------------------------------------------------- hyper-parameters that are one of a few words


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("MARS", {"mars_type": "mars-adam"}, "mars_type must be one of 'mars-adamw', .*, got 'mars-adam'"),
        ("Muon", {"adjust_lr_fn": "match"}, "adjust_lr_fn must be one of None, .*, got 'match'"),
        ("SOAP", {"variant": optim.SOAPVariant(refresh="lu")}, "refresh must be one of"),  # type: ignore[arg-type]
        ("Shampoo", {"grafting": "sgd"}, "grafting must be one of None, 'adam', got 'sgd'"),
        ("Shampoo", {"root": 3}, "root must be one of 2, 4, got 3"),
    ],
)
def test_a_word_that_no_rule_knows_is_refused(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(OptimizerError, match=said):
        getattr(optim, name)([torch.nn.Parameter(torch.ones(2, 2))], **arguments)
