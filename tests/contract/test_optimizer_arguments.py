"""Every optimizer class refuses what it cannot mean when it is made, and another optimizer's state on loading."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch

from isoflop.core.errors import UsageError
from isoflop.optim import SOAP, Chain, Lion, Muon, Shampoo, split
from isoflop.optim.arguments import kinds
from isoflop.optim.method import Method
from optim_classes import CLASSES, arguments

RULES = [name for name, cls in CLASSES.items() if issubclass(cls, Method)]
WRONG: dict[Any, tuple[Any, ...]] = {
    "float": ("0.1", None, (0.1,), True, [0.1, 0.2], 1j),
    "int": ("5", None, 2.5, True, (5,)),
    "bool": ("no", None, 2, 0.0),
}


def matrix() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(4, 4))


def wrong_values(kind: Any) -> tuple[Any, ...]:
    if isinstance(kind, int):
        return ((0.9,) * (kind - 1), (0.9,) * (kind + 1), ("0.9",) * kind, (None,) * kind, None, "0.9, 0.95", 0.9)
    return WRONG[kind]


CASES = [
    (name, argument, value)
    for name in RULES
    for argument, (kind, optional) in kinds(CLASSES[name]).items()
    for value in wrong_values(kind)
    if not (optional and value is None)
]


def test_the_kinds_of_most_arguments_are_known() -> None:
    found = {name: kind for name, (kind, _) in kinds(SOAP).items()}
    assert (found["betas"], found["stagger"], found["max_precond_dim"]) == (2, "bool", "int")
    for name in RULES:
        assert {"lr"} <= set(kinds(CLASSES[name])), name


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_a_value_of_another_kind_is_refused_as_an_argument_and_in_a_group(name: str, argument: str, value: Any) -> None:
    cls = CLASSES[name]
    if argument in inspect.signature(cls).parameters:
        with pytest.raises(UsageError, match=argument):
            cls([matrix()], **{**arguments(name), argument: value})
    groups = cls([matrix()], **arguments(name)).defaults
    if argument in groups:
        with pytest.raises(UsageError, match=argument):
            cls([{"params": [matrix()], argument: value}], **arguments(name))


@pytest.mark.parametrize("name", RULES)
def test_numbers_of_every_library_are_numbers(name: str) -> None:
    import numpy as np

    for rate in (np.float32(0.01), np.float64(0.01), torch.tensor(0.01), 1):
        CLASSES[name]([matrix()], **{**arguments(name), "lr": rate})


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("learning_rate", "lr"),
        ("maximize", "minimise the negative"),
        ("foreach", "leave it out"),
        ("fused", "leave it out"),
        ("wieght_decay", "weight_decay"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_meant(name: str, given: str, fix: str) -> None:
    cls, taken = CLASSES[name], arguments(name)
    fix = fix if fix in taken or " " in fix else ""  # a rule without decay is not asked for its name
    for make in (
        lambda: cls([matrix()], **taken, **{given: 0.1}),
        lambda: cls([{"params": [matrix()], given: 0.1}], **taken),
        lambda: cls([matrix()], **taken).add_param_group({"params": [matrix()], given: 0.1}),
    ):
        with pytest.raises(UsageError, match=f"{cls.__name__} has no hyper-parameter '{given}'.*{fix}"):
            make()


@pytest.mark.parametrize("name", RULES)
def test_keys_of_schedulers_and_names_may_stand_in_a_group(name: str) -> None:
    keys = {"initial_lr": 0.01, "role": "hidden", "name": "all", "lr_scale": 0.5}
    optimizer = CLASSES[name]([{"params": [("w", matrix())], **keys}], **arguments(name))
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9, cycle_momentum=False)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0, last_epoch=1)
    copy.deepcopy(optimizer)


def saved(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter) -> dict[str, Any]:
    p.grad = torch.ones_like(p)
    if "lr" in optimizer.param_groups[0]:
        optimizer.step(lambda: 0.0)  # a closure, for those that ask for one
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize("name", RULES)
def test_the_state_of_every_other_optimizer_is_refused_by_name(name: str) -> None:
    ours = CLASSES[name]([matrix()], **arguments(name))
    for other in RULES:
        p = matrix()
        state = saved(CLASSES[other]([p], **arguments(other)), p)
        if other == name:
            ours.load_state_dict(state)
            continue
        with pytest.raises(UsageError, match=f"is the state of {other}, and this is {name}"):
            ours.load_state_dict(state)
        with pytest.raises(UsageError, match=f"and this is {name}"):
            ours.load_state_dict(Chain([CLASSES[other]([matrix()], **arguments(other))]).state_dict())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("theirs", ["SGD", "AdamW", "RMSprop", "Adagrad"])
def test_the_state_of_torchs_optimizers_is_refused_by_what_it_holds(name: str, theirs: str) -> None:
    p = matrix()
    state = saved(getattr(torch.optim, theirs)([p], lr=0.1), p)
    with pytest.raises(UsageError, match=f"is the state of another optimizer, of torch's .*{theirs}.*: {name} has no"):
        CLASSES[name]([matrix()], **arguments(name)).load_state_dict(state)


def test_a_chain_takes_its_own_state_alone() -> None:
    def chain(*kinds: Any) -> Chain:
        return Chain([kind([matrix()]) for kind in kinds])

    kept = chain(Lion, torch.optim.AdamW).state_dict()
    chain(Lion, torch.optim.AdamW).load_state_dict(copy.deepcopy(kept))
    with pytest.raises(UsageError, match=r"the state of Chain\(Lion, AdamW\), and this is Chain\(AdamW, Lion\)"):
        chain(torch.optim.AdamW, Lion).load_state_dict(kept)
    with pytest.raises(UsageError, match="of torch's SGD"):
        Chain([Lion([matrix()])]).load_state_dict(torch.optim.SGD([matrix()]).state_dict())


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda p: SOAP([p]), "max_precond_dim=1024"),
        (lambda p: SOAP([p], max_precond_dim=1024), ""),
        (lambda p: Shampoo([p], max_preconditioner_dim=4096), "max_preconditioner_dim=1024"),
        (lambda p: Shampoo([p]), ""),
    ],
    ids=["soap", "soap-small", "shampoo", "shampoo-default"],
)
def test_a_long_first_step_is_warned_of_with_the_argument_that_avoids_it(make: Any, argument: str) -> None:
    p = torch.nn.Parameter(torch.zeros(2048, 10))
    if not argument:
        make(p)  # warnings are errors here
        return
    with pytest.warns(UserWarning, match=f"sides up to 2,048 .* about 5 s on one CPU core; {argument}"):
        make(p)


class Theirs(torch.nn.Module):
    """A language model as anybody writes one."""

    def __init__(self, tied: bool, head: str) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(50, 8)
        self.wpe = torch.nn.Embedding(16, 8)
        self.blocks = torch.nn.ModuleList(torch.nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2))
        self.norm = torch.nn.LayerNorm(8)
        setattr(self, head, torch.nn.Linear(8, 50, bias=False))
        if tied:
            getattr(self, head).weight = self.wte.weight


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", ["lm_head", "to_logits"])
def test_split_finds_the_hidden_matrices_of_anybodys_model(tied: bool, head: str) -> None:
    model = Theirs(tied, head)
    hidden, rest = split(model)
    assert {name for name, _ in hidden} == {
        f"blocks.{i}.{name}"
        for i in range(2)
        for name in ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
    }
    assert [name for name, _ in model.named_parameters() if name not in dict(hidden)] == [name for name, _ in rest]
    fewer = split(model, rest=["blocks.0.*"])
    assert all(name.startswith("blocks.1.") for name, _ in fewer.hidden)
    model.blocks[0].requires_grad_(False)
    assert all(p.requires_grad for part in split(model) for _, p in part)
    with pytest.raises(UsageError, match="matches no parameter"):
        split(model, rest=["block.*"])


def test_split_agrees_with_the_roles_of_our_own_models() -> None:
    from isoflop.core.roles import parameter_groups
    from isoflop.optim.groups import split as by_role
    from transformer_toys import context, part

    model = part().build(context())
    inner, rest = by_role(parameter_groups(model))
    found = split(model)
    assert {n for n, _ in found.hidden} == {n for group in inner for n in group.names}
    assert {n for n, _ in found.rest} == {n for group in rest for n in group.names}


def test_muon_and_adamw_train_the_two_parts_as_one() -> None:
    model = Theirs(True, "lm_head")
    hidden, rest = split(model)
    optimizer = Chain([Muon(hidden), torch.optim.AdamW(rest, lr=3e-3)])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
