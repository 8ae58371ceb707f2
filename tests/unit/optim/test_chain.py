import pytest
import torch

from isoflop.optim import Lion
from isoflop.optim.chain import Chain


def pair() -> tuple[list[torch.nn.Parameter], Chain]:
    params = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))]
    return params, Chain([torch.optim.SGD([params[0]], lr=0.5), torch.optim.Adam([params[1]], lr=0.1)])


def test_each_member_moves_its_own_parameters() -> None:
    params, chain = pair()
    for p in params:
        p.grad = torch.ones_like(p)
    chain.step()
    assert torch.equal(params[0], torch.full((3, 2), 0.5))
    torch.testing.assert_close(params[1].detach(), torch.full((4,), 0.9))


def test_groups_and_state_are_shared() -> None:
    params, chain = pair()
    scheduler = torch.optim.lr_scheduler.LambdaLR(chain, lambda t: 0.0)
    chain.step()
    scheduler.step()
    for p in params:
        p.grad = torch.ones_like(p)
    chain.step()
    assert torch.equal(params[0], torch.ones(3, 2))
    chain.zero_grad()
    assert params[0].grad is None
    assert params[1] in chain.state


def test_a_loaded_state_reaches_the_members() -> None:
    params, chain = pair()
    for p in params:
        p.grad = torch.ones_like(p)
    chain.step()
    others, fresh = pair()
    state = chain.state_dict()
    state["param_groups"][0]["lr"] = 0.25
    fresh.load_state_dict(state)
    for p in others:
        p.grad = torch.ones_like(p)
    fresh.step()
    assert torch.equal(others[0], torch.full((3, 2), 0.75))
    assert int(fresh.state[others[1]]["step"]) == 2


def test_wide_state_of_narrow_weights_survives() -> None:
    def build() -> tuple[torch.nn.Parameter, Chain]:
        p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        return p, Chain([Lion([p])])

    p, chain = build()
    p.grad = torch.tensor([0.1, 0.2, 0.3], dtype=torch.bfloat16)
    chain.step()
    q, fresh = build()
    fresh.load_state_dict(chain.state_dict())
    assert fresh.state[q]["exp_avg"].dtype == torch.float32
    assert torch.equal(fresh.state[q]["exp_avg"], chain.state[p]["exp_avg"])


def test_the_closure_is_evaluated_once() -> None:
    _, chain = pair()
    calls = []
    assert chain.step(lambda: calls.append(1) or 3.0) == 3.0
    assert calls == [1]


def test_what_cannot_be_chained_is_refused() -> None:
    params, chain = pair()
    with pytest.raises(ValueError, match="at least one"):
        Chain([])
    with pytest.raises(ValueError, match="before chaining"):
        chain.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="more than one"):
        Chain([torch.optim.SGD(params, lr=1.0), torch.optim.SGD(params, lr=1.0)])
    params[1].grad = torch.ones(4)
    chain.step()
    with pytest.raises(ValueError, match="stepped"):
        Chain([chain])
