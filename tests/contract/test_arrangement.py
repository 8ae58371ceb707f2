"""What every part of the slot arrangement must do; that each is its equation, the variants' tests say."""

from __future__ import annotations

import pytest
import torch

from isoflop.core.contracts import ArrangementPart, Treatment
from isoflop.core.registry import get, names
from isoflop.core.roles import parameter_groups, shapes_of
from isoflop.ledger.audit import Audit
from transformer_toys import VOCAB, context, part


@pytest.mark.parametrize("name", names("arrangement"))
def test_it_has_both_layers_once_and_norms_beside_them(name: str) -> None:
    chosen = get("arrangement", name)()
    assert isinstance(chosen, ArrangementPart)
    assert chosen.card.summary
    every = [module for paths in chosen.rounds for path in paths for module in path]
    assert every.count("mixer") == every.count("feed_forward") == 1
    assert chosen.modules() == tuple(dict.fromkeys(every))


@pytest.mark.parametrize(
    "frozen",
    [
        (),
        ("embedding", "norm"),
        ("embedding", "blocks.0.mixer*"),
        ("embedding", "blocks.0.feed_forward*", "blocks.0.mixer*"),
        ("embedding", "blocks.0.feed_forward_norm.*", "blocks.0.feed_forward.*"),
        ("embedding", "hidden", "blocks.?.mixer_norm.*"),
    ],
)
@pytest.mark.parametrize("name", names("arrangement"))
def test_it_is_charged_what_it_executes_whatever_is_frozen(name: str, frozen: tuple[str, ...]) -> None:
    chosen = part(arrangement=name, layers=3).treated(Treatment(freeze=frozen))
    model, x = chosen.build(context()), torch.arange(22).reshape(2, 11)
    assert sorted(shapes_of(parameter_groups(model)), key=str) == sorted(chosen.trained_shapes(VOCAB), key=str)
    with Audit() as audit:
        model(x).square().mean().backward()
    assert audit.total() == chosen.work(2, 11, VOCAB).total.executed
