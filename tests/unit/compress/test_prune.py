"""Pruning by activations: against the formulas read plainly, planted importance, groups of heads, and the control."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from compress_toys import KINDS, Text, plain, transform
from isoflop.compress.transform import transformed
from isoflop.compress.transforms.prune import Scores
from isoflop.core.contracts import LAYER
from isoflop.core.errors import UsageError
from isoflop.ledger import formulas
from transformer_toys import VOCAB, context


def outputs(live: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What every module gives, and what every block's last products are given: by calling the modules by hand."""
    found: dict[str, torch.Tensor] = {}
    x = live._embed(tokens)
    for i, block in enumerate(live.blocks):
        found[f"before {i}"] = x
        normed = block.mixer_norm(x, torch.float32)
        found[f"mixer_norm {i}"] = normed
        to_qkv, _ = block.mixer.products(torch.float32)
        mixed: list[torch.Tensor] = []
        block.mixer(normed, (to_qkv, partial(_out, mixed, block)))
        found[f"mixed {i}"] = mixed[0]
        x = x + block.mixer.out.product(torch.float32)(mixed[0])
        normed = block.feed_forward_norm(x, torch.float32)
        found[f"feed_forward_norm {i}"] = normed
        found[f"hidden {i}"] = block.feed_forward.gated(torch.float32)(normed)
        x = x + block.feed_forward.down.product(torch.float32)(found[f"hidden {i}"])
        found[f"after {i}"] = x
    found["norm"] = live.norm(x, torch.float32)
    return found


def _out(mixed: list[torch.Tensor], block: Any, given: torch.Tensor) -> torch.Tensor:
    mixed.append(given)
    out: torch.Tensor = block.mixer.out.product(torch.float32)(given)
    return out


def test_scores_are_the_formulas_read_plainly() -> None:
    """Means over positions of absolute activations, then 2-norms over windows; each window alone, number by number."""
    model, text = plain("grouped"), Text()
    tokens = text.tokens(11, 3)
    with torch.no_grad():
        got = Scores(model, text, ["blocks.1.feed_forward.hidden", "blocks.0.mixer.heads", "width", LAYER]).of(tokens)
        live: Any = text.live(model)
        each = [outputs(live, tokens[i : i + 1]) for i in range(11)]

    def joined(name: str, norm: Any) -> torch.Tensor:
        return torch.stack([norm(found[name][0].double()).mean(0) for found in each]).square().sum(0).sqrt()

    hidden = joined("hidden 1", torch.abs)
    heads = joined("mixed 0", lambda x: torch.stack([head.norm(dim=1) for head in x.split(8, 1)], 1))
    norms = [f"{name}_norm {i}" for name in ("mixer", "feed_forward") for i in (0, 1)]
    width = sum(joined(name, torch.abs) for name in [*norms, "norm"])
    layers = [
        sum(1 - torch.cosine_similarity(f[f"before {i}"], f[f"after {i}"], dim=-1).double().mean() for f in each)
        for i in (0, 1)
    ]
    for axis, wanted in (
        ("blocks.1.feed_forward.hidden", hidden),
        ("blocks.0.mixer.heads", heads),
        ("width", width),
        (LAYER, torch.stack([torch.as_tensor(layer) for layer in layers])),
    ):
        torch.testing.assert_close(got[axis], wanted, rtol=1e-5, atol=1e-5)


def test_watching_costs_one_pass_up_to_the_head() -> None:
    model, text = plain(), Text()
    transformed(model, [transform("prune", hidden=0.5, windows=5)], text)
    whole = model.part.work(5, 12, VOCAB).forward.flops
    assert text.spent.flops == whole - formulas.matmul(5 * 12, 32, VOCAB).flops


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_large_stays(kind: str) -> None:
    """Units and heads whose outputs are made tiny go first, whatever else is random."""
    model = plain(kind)
    tensors = {name: tensor.clone() for name, tensor in model.tensors.items()}
    small = [0, 3, 4, 11]
    for name in ("up.weight", "up.bias"):
        if (rows := tensors.get(f"blocks.1.feed_forward.{name}")) is not None:
            rows[small] *= 1e-4
            rows[small] -= 3 if name == "up.bias" and kind == "several" else 0
    units = model.units()
    keep = 1 - 4 / units["blocks.1.feed_forward.hidden"] - 1e-9
    made = transformed(model.having(tensors, {}), [transform("prune", hidden=keep, windows=4)], Text()).model
    wanted = [i for i in range(units["blocks.1.feed_forward.hidden"]) if i not in small]
    assert torch.equal(
        made.tensors["blocks.1.feed_forward.up.weight"], tensors["blocks.1.feed_forward.up.weight"][wanted]
    )
    assert torch.equal(
        made.tensors["blocks.1.feed_forward.down.weight"], tensors["blocks.1.feed_forward.down.weight"][:, wanted]
    )


def test_heads_go_within_their_groups() -> None:
    model = plain("grouped")
    made = transformed(model, [transform("prune", heads=0.5, windows=4)], Text()).model
    assert made.units()["blocks.0.mixer.heads"] == 2
    assert made.units()["blocks.0.mixer.kv_heads"] == 2
    assert torch.equal(made.tensors["blocks.0.mixer.k.weight"], model.tensors["blocks.0.mixer.k.weight"])
    alone = transformed(plain(), [transform("prune", heads=0.5, windows=4)], Text()).model
    assert alone.units()["blocks.0.mixer.kv_heads"] == 2, "a group of one head goes with it"


def test_all_shares_at_once_and_the_random_control() -> None:
    shares = {"hidden": 0.5, "heads": 0.5, "width": 0.5, "depth": 0.5}
    model = plain("grouped")
    made = [
        transformed(model, [transform("prune", **shares, importance=how, windows=4, seed=seed)], Text()).model
        for how, seed in (("activation", 0), ("random", 0), ("random", 0), ("random", 1))
    ]
    assert {str(each.part) for each in made} == {str(made[0].part)}
    wanted = {"width": 16, LAYER: 1, "blocks.0.mixer.heads": 2, "blocks.0.feed_forward.hidden": 48}
    assert wanted.items() <= made[0].units().items()
    first, *others = (each.tensors["embedding.weight"] for each in made)
    assert torch.equal(others[0], others[1])
    assert not torch.equal(first, others[0])
    assert not torch.equal(others[1], others[2])
    assert made[0].part.build(context())(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, VOCAB)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 0.3}, "breaks groups"),
        ({"heads": 0.25}, "breaks groups"),
        ({"hidden": 0.001}, "leaves nothing"),
        ({"depth": 0.2}, "leaves nothing"),
        ({}, "nothing is pruned"),
    ],
)
def test_what_would_be_no_model_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        transformed(plain("grouped"), [transform("prune", **fields)], Text())
    with pytest.raises(UsageError, match="has none"):
        transformed(plain(), [transform("prune", hidden=0.5)])


def test_shares_of_what_a_model_has_not_are_refused() -> None:
    experts = plain(feed_forward="experts")
    for name, fields in (("prune", {"hidden": 0.5}), ("slice", {"hidden_widths": 8})):
        with pytest.raises(UsageError, match="be cut"):
            transformed(experts, [transform(name, **fields)], Text())
    assert transformed(experts, [transform("prune", depth=0.5, windows=2)], Text()).model.units()[LAYER] == 1
