"""One step as an optimizer sees it: accumulation, clipping, and nothing that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from isoflop.core.context import Context
from isoflop.core.contracts import Loss, LossOf, Outputs, TokenBatch
from isoflop.core.cost import Cost, Work
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.core.roles import parameter_groups
from isoflop.core.torch_rule import TorchRule
from isoflop.errors import NumericsError, UsageError
from isoflop.train.problem import StepProblem


class Line(torch.nn.Module):
    role = "hidden"

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.unused = torch.nn.Parameter(torch.ones(2))


class Squares:
    """sum over tokens of (w . x - y)^2, with x and y from the batch."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def loss(self, batch: TokenBatch) -> Loss:
        x, y = batch.inputs.float(), batch.targets.float()
        total = ((x * self.model.w).sum(-1) - y.sum(-1)).square().sum()
        return Loss(total, {"twice": 2 * total.detach()})


def context(model: torch.nn.Module) -> Context:
    return Context(
        Rng(0), Path("unused"), get("tokenizer", "bytes")(), 4, batch=1, length=2,  # type: ignore[arg-type]
        models={"policy": model}, groups=tuple(parameter_groups(model)),
    )  # fmt: skip


def batches(rows: list[int]) -> list[TokenBatch]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randint(0, 5, (sum(rows), 2), generator=draw)
    y = torch.randint(0, 5, (sum(rows), 2), generator=draw)
    cuts = torch.tensor([0, *rows]).cumsum(0).tolist()
    return [TokenBatch(x[a:b], y[a:b], text_bytes=b - a) for a, b in pairwise(cuts)]


def test_accumulated_micro_batches_give_the_gradient_of_the_mean_over_all_tokens() -> None:
    whole, split = Line(), Line()
    one = StepProblem(Squares(whole), context(whole), batches([6])).backward()
    many = StepProblem(Squares(split), context(split), batches([1, 2, 3])).backward()
    torch.testing.assert_close(split.w.grad, whole.w.grad)
    assert many.loss == pytest.approx(one.loss)
    assert (many.tokens, many.text_bytes) == (one.tokens, one.text_bytes) == (12, 6)
    assert many.terms["twice"] == pytest.approx(2 * many.loss)


def test_the_loss_alone_equals_the_one_of_backward_and_leaves_gradients_alone() -> None:
    model = Line()
    problem = StepProblem(Squares(model), context(model), batches([2, 2]))
    value = problem.loss()
    assert model.w.grad is None
    assert value == pytest.approx(problem.backward().loss)


def test_clipping_scales_to_the_limit_and_reports_the_norm_before_it() -> None:
    free, clipped = Line(), Line()
    norm = StepProblem(Squares(free), context(free), batches([4])).backward().grad_norm
    assert norm == pytest.approx(float(free.w.grad.norm()))
    outcome = StepProblem(Squares(clipped), context(clipped), batches([4]), clip=norm / 3).backward()
    assert outcome.grad_norm == pytest.approx(norm)
    torch.testing.assert_close(clipped.w.grad, free.w.grad / 3)


def test_a_norm_below_the_limit_is_left_alone() -> None:
    free, clipped = Line(), Line()
    norm = StepProblem(Squares(free), context(free), batches([4])).backward().grad_norm
    StepProblem(Squares(clipped), context(clipped), batches([4]), clip=norm * 2).backward()
    assert torch.equal(clipped.w.grad, free.w.grad)


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    model = Line()
    with torch.no_grad():
        model.w[0] = float("nan")
    before = model.w.detach().clone()
    optimizer = TorchRule(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(NumericsError, match="loss is nan; an earlier step left weights that are not finite in w"):
        optimizer.step(StepProblem(Squares(model), context(model), batches([2])))
    assert torch.equal(model.w[1:], before[1:])


def test_a_loss_that_overflows_is_not_blamed_on_the_weights() -> None:
    model = Line()
    with torch.no_grad():
        model.w[0] = 1e30
    with pytest.raises(NumericsError, match="loss is inf; every weight is finite"):
        StepProblem(Squares(model), context(model), batches([2])).backward()


def test_a_gradient_that_is_not_finite_names_its_parameter_and_nothing_is_updated() -> None:
    model = Line()
    model.w.register_hook(lambda gradient: gradient * torch.tensor([1.0, float("inf")]))
    optimizer = TorchRule(torch.optim.SGD(model.parameters(), lr=0.1))
    before = model.w.detach().clone()
    with pytest.raises(NumericsError, match=r"not finite in w; every weight is finite"):
        optimizer.step(StepProblem(Squares(model), context(model), batches([2]), clip=1.0))
    assert torch.equal(model.w, before)


def test_the_rate_is_the_initial_one_times_the_factor_however_often_it_is_set() -> None:
    model = Line()
    optimizer = torch.optim.SGD([{"params": [model.w], "lr": 0.5}, {"params": [model.unused], "lr": 0.1}])
    rule = TorchRule(optimizer)
    for factor in (0.5, 0.25, 1.0, 0.1):
        rule.set_factor(factor)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.01])
    again = TorchRule(torch.optim.SGD([{"params": [model.w]}, {"params": [model.unused]}], lr=9.0))
    again.load_state_dict(rule.state_dict())
    again.set_factor(1.0)
    assert [group["lr"] for group in again.optimizer.param_groups] == pytest.approx([0.5, 0.1])


def test_a_plain_optimizer_lends_its_own_evaluation_weights() -> None:
    class Elsewhere(torch.optim.SGD):
        @contextmanager
        def evaluation_weights(self) -> Iterator[None]:
            model.w.data.add_(1)
            yield
            model.w.data.sub_(1)

    model = Line()
    with TorchRule(Elsewhere(model.parameters(), lr=0.1)).evaluation_weights():
        assert model.w.tolist() == [2.0, -1.0]
    with TorchRule(torch.optim.SGD(model.parameters(), lr=0.1)).evaluation_weights():
        assert model.w.tolist() == [1.0, -2.0]


class LinearSquares(Squares):
    """The same loss, split into its output w . x and the square."""

    def linearize(self, batch: TokenBatch) -> tuple[Outputs, LossOf]:
        x, y = batch.inputs.float(), batch.targets.float().sum(-1)
        return lambda p: (x * p["w"]).sum(-1), lambda z: (z - y).square().sum()


def test_the_linearised_pieces_add_up_to_the_mean_loss_and_its_gradient() -> None:
    model = Line()
    problem = StepProblem(LinearSquares(model), context(model), batches([1, 2, 3]))
    whole, slope = 0.0, torch.zeros(2)
    for outputs, loss in problem.linearize():
        gradient, value = torch.func.grad_and_value(lambda p, z=outputs, f=loss: f(z(p)))({"w": model.w.detach()})
        whole, slope = whole + float(value), slope + gradient["w"]
    assert whole == pytest.approx(problem.backward().loss)
    torch.testing.assert_close(slope, model.w.grad)


def test_the_fresh_problem_is_that_of_the_next_batches() -> None:
    model, (first, *others) = Line(), batches([2, 2, 2])
    problem = StepProblem(Squares(model), context(model), [first], ahead=lambda: others)
    assert problem.fresh().loss() == pytest.approx(StepProblem(Squares(model), context(model), others).loss())


class Counted(LinearSquares):
    """Each loss costs a teacher's pass besides, and targets can be drawn; ``seen`` are the draws of each batch."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self.seen: list[tuple[int, int]] = []

    def loss(self, batch: TokenBatch) -> Loss:
        assert batch.draws is not None
        self.seen.append((batch.draws.step, batch.draws.number))
        return Loss(super().loss(batch).total, spent={"teacher": Cost(flops=1000)})

    def resample(self, batch: TokenBatch) -> TokenBatch:
        return batch


WORK = Work(forward=Cost(flops=1), backward=Cost(flops=20), recompute=Cost(executed=300))


def test_the_bill_is_what_was_executed_over_each_micro_batch() -> None:
    """Three micro-batches, whose making cost 7 each; passes of unlike cost, so that none stands for another."""
    model = Line()
    made = [replace(batch, spent={"scoring": Cost(flops=7)}) for batch in batches([1, 2, 3])]
    problem = StepProblem(
        Counted(model), context(model), made, step=4, ahead=lambda: [*batches([1, 1]), *made[:1]], work=WORK
    )
    bill: dict[str, Cost] = {"scoring": Cost(flops=21)}
    assert problem.spent == bill

    def costs(forward: int, backward: int, losses: int) -> None:
        for phase, cost in {
            "train": Cost(flops=forward + 20 * backward),
            "recompute": Cost(executed=300 * backward),
            "teacher": Cost(flops=1000 * losses),
        }.items():
            if cost != Cost():
                bill[phase] = bill.get(phase, Cost()) + cost
        assert problem.spent == bill

    problem.loss()
    costs(3, 0, 3)
    problem.backward()
    costs(3, 3, 3)
    problem.resample()
    costs(6, 3, 3)
    problem.linearize()
    costs(0, 0, 0)
    problem.charge(forward=2, backward=1)
    costs(2, 1, 0)
    problem.fresh().loss()
    costs(3, 0, 3)


def test_each_micro_batch_has_the_random_numbers_of_its_step_and_place() -> None:
    objective = Counted(model := Line())
    problem = StepProblem(objective, context(model), batches([1, 1, 1]), step=4, ahead=lambda: batches([2, 2]))
    problem.loss()
    problem.fresh().loss()
    assert objective.seen == [(4, 0), (4, 1), (4, 2), (5, 0), (5, 1)]


def test_what_the_objective_or_the_data_cannot_give_is_refused() -> None:
    problem = StepProblem(Squares(Line()), context(Line()), batches([2]))
    with pytest.raises(UsageError, match="outputs"):
        problem.linearize()
    with pytest.raises(UsageError, match="next step"):
        problem.fresh()
