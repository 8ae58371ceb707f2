"""Every optimizer in a loop that is not ours, with torch's own schedulers, scalers and checkpoints."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from isoflop.core.errors import NumericsError, UsageError
from isoflop.optim import Chain, SOAPVariant
from isoflop.optim.orthogonal import orthogonalise
from optim_classes import CLASSES, VARIANTS, arguments, label

Make = Callable[[torch.nn.Module], Any]


def alone(name: str, fields: dict[str, Any]) -> Make:
    return lambda model: CLASSES[name](model.named_parameters(), **arguments(name, **fields))


def muon_and_adamw(model: torch.nn.Module) -> Chain:
    (first, *rest) = model.named_parameters()
    return Chain([CLASSES["Muon"]([first], lr=0.01), torch.optim.AdamW(rest, lr=0.01, fused=True)])


MAKERS: dict[str, Make] = {
    **{label(variant): alone(*variant) for variant in VARIANTS},
    "exact MARS": alone("MARS", {"is_approx": False}),
    "AdamW in a chain": lambda model: Chain([torch.optim.AdamW(model.named_parameters(), lr=0.01, fused=True)]),
    "Muon and AdamW in a chain": muon_and_adamw,
}
WITHOUT_CLOSURE = [name for name in MAKERS if name != "exact MARS"]
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
MOST = pytest.mark.parametrize("make", [MAKERS[name] for name in WITHOUT_CLOSURE], ids=WITHOUT_CLOSURE)


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network() -> torch.nn.Sequential:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8, bias=False), torch.nn.Tanh(), torch.nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(random(tuple(p.shape), i) / 3)
    return model


def loss_of(model: torch.nn.Module, t: int) -> torch.Tensor:
    return (model(random((16, 6), 100 + t)) - random((16, 4), 200 + t)).square().mean()


def train(model: torch.nn.Module, optimizer: Any, first: int, last: int, scale: float = 1.0) -> None:
    for t in range(first, last):

        def closure(t: int = t) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, t) * scale
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        assert optimizer.step(closure) is not None


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


@EVERY
def test_a_closure_has_gradients_though_the_loop_has_none(make: Make) -> None:
    model = network()
    with torch.no_grad():
        train(model, make(model), 0, 12)
    assert not torch.equal(weights(model), weights(network()))


@EVERY
def test_a_state_saved_before_the_first_step_is_a_fresh_start(make: Make) -> None:
    model, other = network(), network()
    optimizer = make(other)
    optimizer.load_state_dict(make(network()).state_dict())
    train(model, make(model), 0, 3)
    train(other, optimizer, 0, 3)
    assert torch.equal(weights(model), weights(other))


@EVERY
def test_a_schedule_may_begin_at_a_rate_of_zero(make: Make) -> None:
    model = network()
    optimizer = make(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(t / 3, 1))
    train(model, optimizer, 0, 1)
    assert torch.equal(weights(model), weights(network()))
    for t in range(1, 8):
        schedule.step()
        train(model, optimizer, t, t + 1)
    assert bool(torch.isfinite(weights(model)).all())
    assert not torch.equal(weights(model), weights(network()))


@MOST
def test_a_gradient_scaler_skips_what_overflowed(make: Make) -> None:
    model, scaler = network(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = make(model)
    for t in range(12):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, t)).backward()
        before = weights(model)
        if t == 2:
            next(model.parameters()).grad[0] = torch.inf  # type: ignore[index]
        scaler.step(optimizer)
        scaler.update()
        assert t != 2 or torch.equal(weights(model), before)
    assert not torch.equal(weights(model), weights(network()))


@EVERY
def test_the_rate_may_be_a_tensor(make: Make) -> None:
    model, other = network(), network()
    optimizer, again = make(model), make(other)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    train(model, optimizer, 0, 3)
    train(other, again, 0, 3)
    torch.testing.assert_close(weights(model), weights(other))
    again.load_state_dict(optimizer.state_dict())
    assert all(isinstance(group["lr"], torch.Tensor) for group in again.param_groups)


@EVERY
def test_a_frozen_parameter_rests_and_goes_on(make: Make) -> None:
    model = network()
    optimizer = make(model)
    train(model, optimizer, 0, 3)
    optimizer.zero_grad()
    model[2].requires_grad_(False)
    before = model[2].weight.detach().clone()
    train(model, optimizer, 3, 6)
    assert torch.equal(model[2].weight, before)
    model[2].requires_grad_(True)
    train(model, optimizer, 6, 9)
    assert not torch.equal(model[2].weight, before)


@MOST
def test_torch_checkpoints_carry_the_state(make: Make) -> None:
    model, other = network(), network()
    optimizer, again = make(model), make(other)
    train(model, optimizer, 0, 4)
    kept = copy.deepcopy(get_state_dict(model, optimizer))
    set_state_dict(other, again, model_state_dict=kept[0], optim_state_dict=kept[1])
    train(model, optimizer, 4, 18)
    train(other, again, 4, 18)
    assert torch.equal(weights(model), weights(other))


@EVERY
def test_a_file_read_without_pickle_carries_the_state(make: Make) -> None:
    model, other = network(), network()
    optimizer, again, file = make(model), make(other), io.BytesIO()
    train(model, optimizer, 0, 4)
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    for live, kept in zip((other, again), torch.load(file, weights_only=True), strict=True):
        live.load_state_dict(kept)
    train(model, optimizer, 4, 16)
    train(other, again, 4, 16)
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize("make", [m for n, m in MAKERS.items() if n.startswith(("GPA", "ScheduleFree"))])
def test_what_was_saved_in_evaluation_goes_on_training(make: Make) -> None:
    model, other = network(), network()
    optimizer, again = make(model), make(other)
    train(model, optimizer, 0, 4)
    straight = copy.deepcopy(model)
    unbroken = make(straight)
    unbroken.load_state_dict(optimizer.state_dict())
    optimizer.eval()
    other.load_state_dict(model.state_dict())
    again.load_state_dict(optimizer.state_dict())
    with pytest.raises(UsageError, match="train"):
        train(other, again, 4, 5)
    again.train()
    train(other, again, 4, 8)
    train(straight, unbroken, 4, 8)
    torch.testing.assert_close(weights(other), weights(straight), rtol=1e-4, atol=1e-5)


@MOST
def test_a_state_for_the_same_names_in_another_order_is_refused(make: Make) -> None:
    class Pair(torch.nn.Module):
        def __init__(self, names: str) -> None:
            super().__init__()
            for name in names:
                self.register_parameter(name, torch.nn.Parameter(random((5, 5), ord(name))))

    model, other, renamed = Pair("pq"), Pair("qp"), Pair("rs")
    optimizer = make(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(UsageError, match="state of p would go to q"):
        make(other).load_state_dict(optimizer.state_dict())
    make(renamed).load_state_dict(optimizer.state_dict())


@MOST
def test_a_state_of_another_shape_is_refused(make: Make) -> None:
    model, other = network(), torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 9, bias=False))
    optimizer = make(model)
    train(model, optimizer, 0, 2)
    with pytest.raises(UsageError, match="shape"):
        make(other).load_state_dict(optimizer.state_dict())


# ---------------------------------------------------------------- gradients out of fp32's range


@pytest.mark.parametrize("when", [0, 5])
@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_a_gradient_whose_squares_overflow_is_refused(variant: tuple[str, dict[str, Any]], when: int) -> None:
    model = network()
    optimizer = alone(*variant)(model)
    train(model, optimizer, 0, when)
    before = weights(model)
    with pytest.raises(NumericsError, match=r"parameter 0\.weight of group 0: the gradient's squares overflow"):
        train(model, optimizer, when, when + 1, scale=1e25)
    assert torch.equal(weights(model), before)
    train(model, optimizer, when + 1, when + 12)
    assert bool(torch.isfinite(weights(model)).all())


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_half_precision_gradients_beyond_its_norm_are_taken(variant: tuple[str, dict[str, Any]]) -> None:
    name, fields = variant
    p = torch.nn.Parameter(random((8, 8), 1).half())
    optimizer = CLASSES[name]([p], **arguments(name, **fields))
    for t in range(12):
        p.grad = (random((8, 8), t).clamp(-3, 3) * 2e4).half()
        optimizer.step()
    assert bool(torch.isfinite(p).all())


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_half_precision_iterates_on_gradients_of_any_scale(scale: float) -> None:
    g = random((6, 9), 3)
    x = orthogonalise(g * scale, dtype=torch.float16, eps=1e-20).float()
    torch.testing.assert_close(x, orthogonalise(g, dtype=torch.float32), rtol=5e-2, atol=5e-2)


def test_a_chain_lends_the_defaults_that_all_members_have() -> None:
    model = network()
    optimizer = MAKERS["AdamW in a chain"](model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=6)
    for t in range(5):
        train(model, optimizer, t, t + 1)
        schedule.step()
    assert bool(torch.isfinite(weights(model)).all())


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
@pytest.mark.parametrize(
    ("name", "chosen"),
    [("Muon", lambda d: {"ns_dtype": d}), ("SOAP", lambda d: {"variant": SOAPVariant(rotation_dtype=d)})],
)
def test_products_in_a_type_that_is_no_floating_point_one_are_refused(
    name: str, chosen: Callable[[torch.dtype], dict[str, Any]], dtype: torch.dtype
) -> None:
    """In integers they would be rounded to nothing, step by step, without a word."""
    with pytest.raises(UsageError, match="_dtype must be a floating point type"):
        CLASSES[name](network().parameters(), **arguments(name, **chosen(dtype)))
