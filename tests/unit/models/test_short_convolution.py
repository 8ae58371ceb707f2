"""The depthwise convolution behind queries, keys and values: its definition, whom it sees, caches, its price."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from isoflop.core.contracts import Documents, Seen, Treatment
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.ledger.audit import Audit
from isoflop.models.attend import dense_mask
from isoflop.models.patterns.causal import CausalPattern
from isoflop.models.patterns.full import FullPattern
from isoflop.models.patterns.window import WindowPattern
from isoflop.models.short_convolution import ShortConvolution
from isoflop.models.slots import Piece
from isoflop.models.transformer import CachingTransformer
from transformer_toys import VOCAB, context, part

BATCH, LENGTH = 2, 11
APART = Documents(torch.tensor([[0] * 4 + [1] * 7, [0] * 11]))
SEEN: dict[str, Seen] = {
    "causal": None,
    "pattern": CausalPattern(),
    "full": FullPattern(),
    "window": WindowPattern(size=2),
    "documents": APART,
    "windowed documents": Documents(APART.ids, WindowPattern(size=2)),
    "mask": torch.rand(BATCH, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)) > 0.4,
}


def by_definition(x: Tensor, weight: Tensor, seen: Seen) -> Tensor:
    shown = dense_mask(seen, x.shape[1], x.device).expand(len(x), -1, -1)
    out, taps = torch.zeros_like(x), weight.shape[1]
    for row in range(len(x)):
        for t in range(x.shape[1]):
            for back in range(min(taps, t + 1)):
                if shown[row, t, t - back]:
                    out[row, t] += weight[:, taps - 1 - back] * x[row, t - back]
    return out


def stirred(channels: int, taps: int) -> ShortConvolution:
    layer = ShortConvolution(channels, taps).double()
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    return layer


@pytest.mark.parametrize("taps", [2, 3, 13])
@pytest.mark.parametrize("seen", SEEN)
def test_a_position_sums_itself_and_those_before_it_that_it_sees(seen: str, taps: int) -> None:
    layer, draw = stirred(6, taps), torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, LENGTH, 6, dtype=torch.float64, generator=draw)
    torch.testing.assert_close(layer(x, SEEN[seen]), by_definition(x, layer.weight, SEEN[seen]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("seen", ["causal", "documents"])
def test_its_gradient_is_right(seen: str) -> None:
    layer = stirred(2, 3)
    x = torch.randn(BATCH, LENGTH, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda x, _: layer(x, SEEN[seen]), (x.requires_grad_(), layer.weight))


@pytest.fixture(scope="module")
def model() -> CachingTransformer:
    made = part(mixer={"kv_heads": 2, "convolution": 3, "qk_norm": True}, layers=1).build(context())
    with torch.no_grad():
        for block in made.blocks:
            block.mixer.convolution.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert isinstance(made, CachingTransformer)
    return made


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pieces", [[1] * LENGTH, [2, 1, 8], [1, 10], [LENGTH]])
@torch.no_grad()
def test_steps_in_any_split_equal_the_whole(model: CachingTransformer, pieces: list[int]) -> None:
    x = ids(3, LENGTH)
    cache = model.make_cache(3, 2)
    steps = torch.cat([model.step(piece, cache) for piece in x.split(pieces, 1)], 1)
    torch.testing.assert_close(steps, model(x), rtol=0, atol=1e-5)
    for kept in (7, 2, 1, 0):
        cache.truncate(kept)
        cache.select([2, 0, 0])
        x = x[[2, 0, 0]]
        torch.testing.assert_close(
            model.step(x[:, kept : kept + 2], cache), model(x)[:, kept : kept + 2], rtol=0, atol=1e-5
        )


@torch.no_grad()
def test_padding_is_no_neighbour(model: CachingTransformer) -> None:
    x = ids(2, LENGTH)
    padded = torch.cat((torch.ones(1, 3, dtype=torch.int64), x[1:, :-3]), 1)
    cache = model.make_cache(2, 4, pads=[0, 3])
    both = torch.cat((x[:1], padded))
    steps = torch.cat([model.step(piece, cache) for piece in both.split([2, 3, 1, 5], 1)], 1)
    torch.testing.assert_close(steps[0], model(x)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(steps[1, 3:], model(x)[1, :-3], rtol=0, atol=1e-5)


@torch.no_grad()
def test_sequences_that_come_and_go_keep_their_neighbours(model: CachingTransformer) -> None:
    x = ids(3, LENGTH)
    whole, slots = model(x), model.prepared(rows=3).make_slots()
    slots.reserve(rows=2, capacity=4)
    slots.join()
    slots.step([Piece(0, x[0, :3].tolist(), 1)])
    slots.join()
    first, second = slots.step([Piece(0, [int(x[0, 3])], 1), Piece(1, x[1, :2].tolist(), 2)])
    torch.testing.assert_close(first[0], whole[0, 3], rtol=0, atol=1e-5)
    torch.testing.assert_close(second, whole[1, :2], rtol=0, atol=1e-5)
    slots.leave(0)
    slots.reserve(rows=2, capacity=9)
    slots.join()
    one, other = slots.step([Piece(0, [int(x[1, 2])], 1), Piece(1, x[2, :1].tolist(), 1)])
    torch.testing.assert_close(one[0], whole[1, 2], rtol=0, atol=1e-5)
    torch.testing.assert_close(other[0], whole[2, 0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_window_cuts_it_in_steps_as_in_the_whole() -> None:
    narrow = part(mixer={"convolution": 4, "pattern": {"name": "window", "size": 2}}, layers=1).build(context())
    x = ids(2, LENGTH)
    cache = narrow.make_cache(2, 2)
    steps = torch.cat([narrow.step(piece, cache) for piece in x.split([4, 1, 6], 1)], 1)
    torch.testing.assert_close(steps, narrow(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "freeze",
    [(), ("embedding",), ("*.convolution.*",), ("embedding", "*.mixer.[qkv].*"), ("embedding", "*.mixer.*", "norm")],
)
@pytest.mark.parametrize("seen", ["causal", "window", "documents"])
def test_it_is_charged_as_it_is_executed(freeze: tuple[str, ...], seen: str) -> None:
    chosen = part(mixer={"kv_heads": 2, "convolution": 3}).treated(Treatment(freeze=freeze))
    given = SEEN[seen]
    rule = given.pattern if isinstance(given, Documents) else given
    with Audit() as audit:
        chosen.build(context())(ids(BATCH, LENGTH), given).square().mean().backward()
    assert audit.total() == chosen.work(BATCH, LENGTH, VOCAB, rule).total.executed  # type: ignore[arg-type]


def test_recipes_without_it_do_not_know_it() -> None:
    assert "convolution" not in Recipe.load("small").to_json()["model"]["mixer"]
    assert Recipe.load("small", "model.mixer.convolution=3").to_json()["model"]["mixer"]["convolution"] == 3


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.mixer.convolution=1", r"model\.mixer\.convolution: .*greater than or equal to 2|at least 2"),
        (
            'objective={name="masked", block=4}',
            r"model\.mixer: attention cannot obey the pattern block_diffusion of objective masked; leave out its convo",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(override: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("small", "model.mixer.convolution=3", override)


def test_it_starts_as_a_mean_that_favours_the_present() -> None:
    assert np.allclose(ShortConvolution(2, 3).weight.detach().numpy(), [[1 / 6, 1 / 6, 1 / 2]] * 2)
