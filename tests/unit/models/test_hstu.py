"""Pointwise attention: its definition, whom it sees, caches, counts, its price."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isoflop.core.contracts import Documents, Seen, Treatment
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.ledger.audit import Audit
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.attend import dense_mask
from isoflop.models.mixers.hstu import Hstu, reference
from isoflop.models.patterns.block_diffusion import BlockDiffusionPattern
from isoflop.models.patterns.causal import CausalPattern
from isoflop.models.patterns.full import FullPattern
from isoflop.models.patterns.window import WindowPattern
from isoflop.models.transformer import CachingTransformer
from transformer_toys import VOCAB, context

LENGTH = 12
APART = Documents(torch.tensor([[0] * 5 + [1] * 7, [0] * 12]))
SEEN: dict[str, Seen] = {
    "causal": None,
    "pattern": CausalPattern(),
    "full": FullPattern(),
    "window": WindowPattern(size=3),
    "blocks": BlockDiffusionPattern(size=3),
    "documents": APART,
    "mask": torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(2),
}


def stirred() -> Hstu:
    layer = Hstu(8, 2, 4, 5, 1e-5).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / 8**0.5)
    return layer


@pytest.mark.parametrize("seen", SEEN)
def test_it_is_its_definition(seen: str) -> None:
    layer, given = stirred(), SEEN[seen]
    x = torch.randn(2, LENGTH, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = layer(x, layer.products(torch.float64), given)
    rule = given.pattern if isinstance(given, Documents) else given
    found = rule.places(LENGTH) if hasattr(rule, "places") else None
    places = np.arange(LENGTH) if found is None else found
    shown = dense_mask(given, LENGTH, x.device).expand(2, -1, -1)
    q, k, v, u = (F.silu(F.linear(x, m.weight)).view(2, LENGTH, 2, 4) for m in (layer.q, layer.k, layer.v, layer.u))

    def of(row: int, head: int) -> Tensor:
        return reference(*(each[row, :, head] for each in (q, k, v)), layer.bias[head], shown[row], places)

    pairs = [[of(row, head) for head in (0, 1)] for row in (0, 1)]
    gathered = torch.stack([torch.stack(heads, 1) for heads in pairs]).flatten(2)
    expected = F.linear(F.layer_norm(gathered, (8,), eps=1e-5) * u.flatten(2), layer.out.weight)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_how_often_a_token_came_is_not_forgotten() -> None:
    """Softmax gives the same for one key and for two alike; what is gathered here, before its norm, does not share."""
    q, k, v = torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2)
    one = reference(q, k, v, torch.zeros(1), torch.ones(1, 1, dtype=torch.bool), np.arange(1))
    assert float(one[0, 0]) == pytest.approx(float(F.silu(torch.tensor(2.0))))


def part(**fields: Any) -> TransformerPart:
    return TransformerPart.model_validate(
        {"d_model": 32, "layers": 2, "mixer": {"name": "hstu", "distances": 6}, **fields}
    )


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> CachingTransformer:
    made = part().build(context())
    assert isinstance(made, CachingTransformer)
    with torch.no_grad():
        for block in made.blocks:
            block.mixer.bias.normal_(generator=torch.Generator().manual_seed(0))
    return made


@pytest.mark.parametrize("pieces", [[1] * LENGTH, [2, 1, 9], [LENGTH]])
@torch.no_grad()
def test_steps_in_any_split_equal_the_whole(model: CachingTransformer, pieces: list[int]) -> None:
    x = ids(2, LENGTH)
    cache = model.make_cache(2, 2)
    steps = torch.cat([model.step(piece, cache) for piece in x.split(pieces, 1)], 1)
    torch.testing.assert_close(steps, model(x), rtol=0, atol=1e-5)
    cache.truncate(4)
    torch.testing.assert_close(model.step(x[:, 4:6], cache), model(x)[:, 4:6], rtol=0, atol=1e-5)
    padded = torch.cat((x[:1], torch.cat((torch.ones(1, 3, dtype=torch.int64), x[1:, :-3]), 1)))
    cache = model.make_cache(2, 2, pads=[0, 3])
    steps = torch.cat([model.step(piece, cache) for piece in padded.split(pieces, 1)], 1)
    torch.testing.assert_close(steps[0], model(x)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(steps[1, 3:], model(x)[1, :-3], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "freeze", [(), ("embedding",), ("embedding", "*.mixer.*"), ("embedding", "norm", "blocks.0.*")]
)
@pytest.mark.parametrize("seen", ["causal", "full", "window", "documents"])
def test_it_is_charged_as_it_is_executed(freeze: tuple[str, ...], seen: str) -> None:
    chosen, given = part().treated(Treatment(freeze=freeze)), SEEN[seen]
    rule = given.pattern if isinstance(given, Documents) else given
    work = chosen.work(2, LENGTH, VOCAB, rule)  # type: ignore[arg-type]
    with Audit() as audit:
        chosen.build(context())(ids(2, LENGTH), given).square().mean().backward()
    assert audit.total() == work.total.executed
    if not freeze:
        assert work.backward.flops == 2 * work.forward.flops <= 2 * work.forward.executed


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.mixer\.heads: 5 do not divide the width 64; choose a divisor"):
        Recipe.load("small", "model.mixer=hstu", "model.mixer.heads=5")
