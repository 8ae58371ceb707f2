"""A mixer or a feed-forward may be a list that repeats over the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from isoflop.core.contracts import Cacheable, MixerPart
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.roles import parameter_groups, shapes_of
from isoflop.ledger.audit import Audit
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.mixers.attention import AttentionPart
from isoflop.store.run import Run
from isoflop.train.run import train
from transformer_toys import VOCAB, context

WINDOW = {"name": "attention", "pattern": {"name": "window", "size": 4}}
GROUPED = {"name": "attention", "kv_heads": 2, "qk_norm": True}
LISTS: dict[str, dict[str, Any]] = {
    "two windows": {"mixer": [WINDOW, "attention"], "layers": 4},
    "cut short": {"mixer": [WINDOW, WINDOW, GROUPED], "feed_forward": ["gelu", "swiglu"], "layers": 5},
    "as many as blocks": {"feed_forward": ["squared_relu", {"name": "swiglu", "hidden": 20}, "gelu"], "layers": 3},
    "tied": {"mixer": ["attention", GROUPED], "layers": 3, "tied": True},
}


def part_of(**fields: Any) -> TransformerPart:
    return TransformerPart.model_validate({"d_model": 32, **fields})


def tokens(length: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("length", [21, 150])
@pytest.mark.parametrize("chosen", LISTS)
def test_shapes_and_work_are_exact_and_steps_equal_one_forward(chosen: str, length: int) -> None:
    part, x = part_of(**LISTS[chosen]), tokens(length)
    model = part.build(context())
    by_name = sorted(part.shapes(VOCAB), key=lambda shape: shape.name)
    assert sorted(shapes_of(parameter_groups(model)), key=lambda shape: shape.name) == by_name
    for pattern in (None, get("pattern", "full")(), get("pattern", "prefix")(size=7)):
        model.zero_grad()
        with Audit() as audit:
            model(x, pattern).square().mean().backward()
        assert audit.total() == part.work(2, length, VOCAB, pattern).total.executed  # type: ignore[arg-type]
    assert Cacheable in part.abilities
    assert isinstance(model, Cacheable)
    cache = model.make_cache(2, 8)
    with torch.no_grad():
        steps = torch.cat([model.step(piece, cache) for piece in x.split([6, 1, 3, *[1] * (length - 10)], 1)], 1)
        torch.testing.assert_close(steps, model(x), rtol=0, atol=1e-5)
        cache.truncate(9)
        torch.testing.assert_close(model.step(x[:, 9:10], cache), steps[:, 9:10], rtol=0, atol=1e-5)


def test_a_list_repeats_and_is_cut_at_the_last_block() -> None:
    part = part_of(mixer=[WINDOW, "attention", GROUPED], layers=5)
    window, plain, grouped = part.mixer  # type: ignore[misc]
    assert [mixer for mixer, _ in part.blocks()] == [window, plain, grouped, window, plain]
    model = part.build(context())
    assert [block.mixer.pattern for block in model.blocks] == [window.pattern, None, None, window.pattern, None]


def test_a_list_of_equal_parts_is_the_model_of_the_part() -> None:
    one, both = (part_of(mixer=mixer).build(context()) for mixer in (WINDOW, [WINDOW, WINDOW]))
    assert all(torch.equal(weight, both.state_dict()[name]) for name, weight in one.state_dict().items())
    assert torch.equal(one(tokens(12)), both(tokens(12)))


# ---------------------------------------------------------------- as a recipe

PAIR = 'model.mixer=[{name="attention", pattern={name="window", size=4}}, "attention"]'


def test_a_list_survives_every_form_of_a_recipe() -> None:
    made = Recipe.load("small", PAIR)
    assert Recipe.from_toml(made.to_toml()).hash == made.hash != Recipe.load("small").hash
    assert Recipe.from_json(made.to_json()) == made
    paths = dict(made.parts())
    assert paths["model.mixer.0.pattern"].name == "window"
    assert paths["model.mixer.1"] == AttentionPart()


def test_a_list_of_one_is_the_part() -> None:
    one = Recipe.load("small", "model.mixer.kv_heads=2")
    mixer = "".join(f", {key} = {value}" for key, value in (("heads", 4), ("kv_heads", 2)))
    assert (
        Recipe.load("small", f'model.mixer=[{{name = "attention"{mixer}}}]').hash
        == one.with_("model.mixer.heads=4").hash
    )
    assert (
        Recipe.load("small", 'model.feed_forward=["gelu"]').hash == Recipe.load("small", "model.feed_forward=gelu").hash
    )


def test_overrides_reach_into_a_list() -> None:
    made = Recipe.load(
        "small", PAIR, "model.mixer.0.pattern.size=9", "model.mixer.1.qk_norm=true", "metrics.0=accuracy"
    )
    first, second = made.model.mixer  # type: ignore[attr-defined]
    assert (first.pattern.size, second.qk_norm, made.metrics[0].name) == (9, True, "accuracy")
    assert made.with_("model.mixer.1=attention").model.mixer[1] == AttentionPart()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ((PAIR, "model.layers=1"), r"model\.mixer: lists 2 parts for 1 blocks; use as many at most"),
        (
            (PAIR, "model.mixer.1.heads=3"),
            r"model\.mixer\.1\.heads: 3 do not divide",
        ),
        ((PAIR, "model.mixer.1.window=3"), r"model\.mixer\.1\.window: no such key"),
        ((PAIR, "model.mixer.0.pattern.sice=3"), r"model\.mixer\.0\.pattern\.sice: no such key; did you mean size"),
        ((PAIR, "model.mixer.2.heads=3"), r"model\.mixer\.2\.heads=3: model\.mixer is a list; its entries are 0 to 1"),
        ((PAIR, "model.mixer.heads=3"), r"model\.mixer is a list; its entries are 0 to 1"),
        (('model.mixer=["attention", "atention"]',), r"model\.mixer\.1: no mixer is named 'atention'"),
        (("model.mixer=[]",), r"model\.mixer: .*at least 1"),
        (("model.mixer=7",), r"model\.mixer: should be the name of a mixer"),
    ],
)
def test_what_is_wrong_in_a_list_is_said_with_its_place(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("small", *overrides)


def test_lines_of_lists_of_tables_are_found() -> None:
    text = Recipe.load("small", PAIR, "name=tables").to_toml().replace("theta", "thete")
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith("thete")]
    with pytest.raises(RecipeError) as refusal:
        Recipe.from_toml(text)
    for number, line in enumerate(lines):
        assert any(f"line {line}: model.mixer.{number}.thete" in said for said in refusal.value.problems)


def test_a_list_trains_under_audit_and_resumes_from_what_is_stored(tmp_path: Path) -> None:
    recipe = Recipe.load(
        "small", PAIR, "model.d_model=16", "model.mixer.0.heads=2", "model.layers=3",
        'source={name="hmm", text_bytes=20000, heldout_bytes=1000}', "tokenizer=bytes",
        "train={length=16, batch=2, evaluations=1, checkpoints=2}", "budget={steps=4}",
    )  # fmt: skip
    run = train(recipe, tmp_path, audit=True)
    assert run.result["status"] == "done"
    assert Run.read(run.path).recipe.hash == recipe.hash


# ---------------------------------------------------------------- abilities


class Mean(torch.nn.Module):
    """The mean of all earlier vectors: a mixer that keeps no cache."""

    def products(self, dtype: torch.dtype) -> None:
        return None

    def forward(self, x: torch.Tensor, products: None, seen: Any = None, cache: Any = None) -> torch.Tensor:
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[None, :, None]


class MeanPart(MixerPart):
    name: ClassVar[str] = "mean"

    def build(self, width: int, ctx: Any) -> Mean:
        return Mean()

    def shapes(self, width: int) -> list[Any]:
        return []

    steps = lambda self, *_: []  # type: ignore[assignment]  # noqa: E731


def test_a_model_caches_only_if_all_its_mixers_do() -> None:
    for mixer in (MeanPart(), (AttentionPart(), MeanPart())):
        part = part_of(mixer=mixer)
        assert Cacheable not in part.abilities
        assert not isinstance(model := part.build(context()), Cacheable)
        assert model(tokens(5)).shape == (2, 5, VOCAB)
