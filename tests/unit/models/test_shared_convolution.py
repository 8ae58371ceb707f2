"""One cell for all positions and rounds: against its definition, its price, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.core.contracts import Documents, Treatment
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.ledger.audit import Audit
from isoflop.models.architectures.shared_convolution import SharedConvolution, SharedConvolutionPart
from isoflop.models.patterns.causal import Causal
from isoflop.models.patterns.window import WindowPattern
from transformer_toys import VOCAB, context


def part(**fields: Any) -> SharedConvolutionPart:
    return SharedConvolutionPart.model_validate({"d_model": 16, **fields})


def model(**fields: Any) -> SharedConvolution:
    return part(**fields).build(context())


def ids(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


def by_definition(live: SharedConvolution, row: Tensor, document: Tensor | None = None) -> Tensor:
    """Logits (length, vocab) of one row in float64, number by number: position by position, round by round."""
    get_ = {name: tensor.double() for name, tensor in live.state_dict().items()}
    x = get_["embedding.weight"][row]
    states, kernel, width = list(x), live.cell.kernel, x.shape[1]
    for _ in range(live.rounds(len(row))):
        old = list(states)
        for i in range(len(row)):
            taps = [
                old[i - back]
                if i >= back and (document is None or document[i - back] == document[i])
                else torch.zeros(width).double()
                for back in range(kernel)
            ]
            given = get_["cell.token.weight"] @ x[i] + get_["cell.token.bias"]
            hidden = (get_["cell.window.weight"] @ torch.cat(taps) + given).clamp(min=0)
            out = get_["cell.out.weight"] @ hidden + get_["cell.out.bias"]
            gate, new = out[:width].sigmoid(), out[width:].tanh()
            states[i] = (1 - gate) * old[i] + gate * new
    found = torch.stack(states)
    normed = found / (found.square().mean(-1, keepdim=True) + 1e-5).sqrt() * get_["norm.weight"]
    return normed @ get_["unembedding.weight"].T


@pytest.mark.parametrize(("kernel", "per_token", "rounds"), [(2, 1.0, 1), (3, 0.5, 1), (12, 0.0, 4)])
@torch.no_grad()
def test_it_is_its_definition(kernel: int, per_token: float, rounds: int) -> None:
    live, x = model(kernel=kernel, per_token=per_token, rounds=rounds), ids()
    wanted = torch.stack([by_definition(live, row) for row in x])
    torch.testing.assert_close(live(x).double(), wanted, rtol=0, atol=1e-5)


def test_rounds_follow_the_length() -> None:
    assert [part(per_token=0.1).rounds_of(n) for n in (1, 10, 11, 30, 256)] == [1, 1, 2, 3, 26]
    assert [part(per_token=0.0, rounds=5).rounds_of(n) for n in (1, 1000)] == [5, 5]


@torch.no_grad()
def test_what_lies_further_back_than_its_rounds_reach_is_not_seen() -> None:
    live, x = model(kernel=3, per_token=0.0, rounds=2), ids(1, 12)
    changed = x.clone()
    changed[0, 0] = (x[0, 0] + 1) % VOCAB
    differs = (live(changed) - live(x)).abs().amax(-1)[0] > 0
    assert differs.tolist() == [True] * 5 + [False] * 7


@torch.no_grad()
def test_documents_of_one_row_do_not_see_each_other() -> None:
    live, x = model(kernel=3), ids(2, 9)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 2, 2, 2, 2, 2, 3]])
    wanted = torch.stack([by_definition(live, *pair) for pair in zip(x, documents, strict=True)])
    torch.testing.assert_close(live(x, Documents(documents)).double(), wanted, rtol=0, atol=1e-5)
    mask = Documents(documents).same & torch.ones(9, 9, dtype=torch.bool).tril()
    assert torch.equal(live(x, mask), live(x, Documents(documents)))
    assert torch.equal(live(x, Documents(documents, Causal())), live(x, Documents(documents)))


TREATMENTS = [
    Treatment(checkpointing=True),
    *(Treatment(freeze=freeze) for freeze in [("embedding",), ("hidden",), ("cell.window*", "embedding"), ("cell*",)]),
    Treatment(freeze=("embedding", "cell.token*", "cell.window*"), checkpointing=True),
]


def priced(live: SharedConvolution, of: Any, length: int) -> None:
    with Audit() as audit:
        live(ids(2, length)).square().mean().backward()
    assert audit.total() == of.work(2, length, VOCAB).total.executed


@pytest.mark.parametrize("treatment", TREATMENTS, ids=str)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_ledger_is_what_is_executed_whatever_is_frozen(treatment: Treatment, length: int) -> None:
    of = part(kernel=3, hidden=24).treated(treatment)
    priced(of.build(context()), of, length)


FEW = ("lora", "dora", "integer", "mx")
STANDING = [
    pytest.param(name, marks=[] if name in FEW else pytest.mark.slow)
    for name in names("parametrization")
    if name not in ("composed", "cat")
]


@pytest.mark.parametrize("name", STANDING)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_ledger_is_what_is_executed_whatever_stands_for_the_weights(name: str, checkpointing: bool) -> None:
    parametrization: Any = get("parametrization", name)()
    of = part().treated(Treatment(parametrization, checkpointing=checkpointing))
    priced(of.build(context()), of, 5)


def test_work_grows_with_length_times_rounds() -> None:
    flops = [part().work(1, n, VOCAB).forward.flops for n in (64, 128, 256)]
    rounds = [f - part(per_token=0).work(1, n, VOCAB).forward.flops for f, n in zip(flops, (64, 128, 256), strict=True)]
    each = 2 * 16 * 32 * (2 + 2)
    assert rounds == [each * n * (n - 1) for n in (64, 128, 256)]


@pytest.mark.parametrize(
    "seen", [WindowPattern(size=2), torch.ones(9, 9, dtype=torch.bool), torch.eye(9).bool().logical_not()]
)
def test_what_it_cannot_obey_is_refused_by_name(seen: Any) -> None:
    with pytest.raises(UsageError, match="shared_convolution sees what lies just before a position, and cannot obey"):
        model()(ids(), seen)


RECIPE = {"model": {"name": "shared_convolution", "d_model": 16}, "source": "stdlib", "budget": {"steps": 1}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"objective": "masked"}, "cannot obey the pattern full of objective masked; use the model transformer"),
        ({"model": {**RECIPE["model"], "d_model": 2**22}}, r"model: its \d+ parameters take \d+ bytes in training"),  # type: ignore[dict-item]
        ({"model": {**RECIPE["model"], "kernel": 1}}, r"model\.kernel: .*at least 2"),  # type: ignore[dict-item]
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.from_json({**RECIPE, **changes})
