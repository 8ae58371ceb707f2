"""Filling in hidden tokens: the law of samples, recorded samplers, pace, blocks, what is told, and errors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from isoflop.core.contracts import Documents, Filling, Seen
from isoflop.core.errors import NumericsError, UsageError
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.core.slots import resolve
from isoflop.decode import unmask_part
from isoflop.decode.unmask import Unmask
from isoflop.decode.unmask_part import UnmaskPart, gumbel_max
from isoflop.models.patterns.full import FullPattern
from transformer_toys import VOCAB, context, part

FILLS = [name for name in names("decoder") if issubclass(get("decoder", name), UnmaskPart)]
ONE_A_CALL = [name for name in FILLS if name not in ("remask", "threshold", "ancestral")]
"""Those that show one token a call by default."""
VALUES, PLACES = 3, 3


class Posterior(torch.nn.Module):
    """A model whose conditionals are exactly those of a joint law over three tokens of three values; id 3 is the mask.

    Its mask has the highest logit of all, so a sampler that does not forbid it writes nothing else.
    """

    def __init__(self, joint: Any) -> None:
        super().__init__()
        self.joint = torch.tensor(joint, dtype=torch.float64)
        self.head = torch.nn.Parameter(torch.zeros(VALUES + 1, 1))
        self.calls = 0

    def forward(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        self.calls += 1
        out = torch.full((*tokens.shape, VALUES + 1), 50.0, dtype=torch.float64)
        for row, ids in enumerate(tokens.tolist()):
            table = self.joint
            for place, value in enumerate(ids[:PLACES]):
                if value < VALUES:
                    keep = torch.zeros(VALUES, dtype=torch.float64)
                    keep[value] = 1
                    table = table * keep.view([-1 if i == place else 1 for i in range(PLACES)])
            for place in range(PLACES):
                marginal = table.sum([i for i in range(PLACES) if i != place])
                out[row, place, :VALUES] = (marginal / table.sum()).log()
        return out


def joint(seed: int = 0) -> Any:
    drawn = np.random.default_rng(seed).dirichlet(np.full(VALUES**PLACES, 0.6))
    return drawn.reshape([VALUES] * PLACES)


def independent() -> Any:
    a, b, c = np.random.default_rng(1).dirichlet(np.ones(VALUES), size=PLACES)
    return np.einsum("i,j,k->ijk", a, b, c)


FILLING = Filling(mask=VALUES, ids=VALUES + 1, pattern=FullPattern())
"""The mask is among the ids, as in published models."""


def decoder(name: str, filling: Filling | None = FILLING, **fields: Any) -> Unmask:
    made = get("decoder", name)(**{"temperature": 1.0, "batch": 500, **fields}).build()
    made._filling = filling
    return made  # type: ignore[no-any-return]


def pvalue(law: Any, samples: list[list[int]]) -> float:
    counts = Counter(map(tuple, samples))
    cells = [(float(p) * len(samples), counts[index]) for index, p in np.ndenumerate(law)]
    large = [cell for cell in cells if cell[0] >= 5]
    small = [cell for cell in cells if cell[0] < 5]
    pooled = [*large, (sum(p for p, _ in small), sum(n for _, n in small))] if small else large
    expected, found = zip(*pooled, strict=True)
    assert sum(found) == len(samples), "a sample of no probability"
    return float(stats.chisquare(found, np.array(expected) * sum(found) / sum(expected)).pvalue)


@pytest.mark.parametrize("fields", [{}, {"noise": 1.0}, {"block": 2}], ids=["plain", "noise", "blocks"])
@pytest.mark.parametrize("name", ONE_A_CALL)
def test_with_one_token_a_call_samples_have_the_models_law(name: str, fields: dict[str, Any]) -> None:
    law = joint()
    assert pvalue(law, decoder(name, samples=900, **fields).generate(Posterior(law), [[]], 3, Rng(1))) > 1e-3


@pytest.mark.parametrize("name", [name for name in FILLS if name != "remask"])
@pytest.mark.parametrize("pace", [{"per_call": 3}, {"steps": 2}])
def test_where_tokens_are_independent_any_pace_has_the_models_law(name: str, pace: dict[str, Any]) -> None:
    law = independent()
    fields = {"steps": 3} if name == "ancestral" else pace
    assert pvalue(law, decoder(name, samples=900, **fields).generate(Posterior(law), [[]], 3, Rng(2))) > 1e-3


def test_ancestral_samples_come_near_the_law_with_many_steps() -> None:
    law = joint()
    many = decoder("ancestral", steps=60, samples=300).generate(Posterior(law), [[]], 3, Rng(3))
    assert pvalue(law, many) > 1e-3
    one = decoder("ancestral", steps=1, samples=900).generate(Posterior(law), [[]], 3, Rng(3))
    assert pvalue(product(law), one) > 1e-3


def product(law: Any) -> Any:
    """The law of tokens that are drawn all at once: independent, each with its own law."""
    return np.einsum("i,j,k->ijk", law.sum((1, 2)), law.sum((0, 2)), law.sum((0, 1)))


def test_steps_in_which_nothing_is_shown_need_no_call() -> None:
    model = Posterior(joint())
    decoder("ancestral", steps=500).generate(model, [[]], 3, Rng(0))
    assert model.calls <= 3


@pytest.mark.parametrize("name", ONE_A_CALL)
def test_infilling_has_the_conditional_law(name: str) -> None:
    law = joint(4)
    found = decoder(name, samples=900).infill(Posterior(law), [[None, 1, None]], Rng(5))
    given = law[:, 1, :] / law[:, 1, :].sum()
    assert pvalue(given, [each.ids for each in found]) > 1e-3


@pytest.mark.parametrize("name", FILLS)
def test_the_mask_is_never_written(name: str) -> None:
    """Its logit is the highest of all; peers then loop for ever, or write it."""
    for temperature in (0.0, 5.0):
        ids = decoder(name, temperature=temperature, samples=20).generate(Posterior(joint()), [[]], 3, Rng(0))
        assert all(0 <= token < VALUES for found in ids for token in found)
        assert all(len(found) == 3 for found in ids)


def test_the_least_entropy_comes_first_and_not_the_most() -> None:
    law = np.einsum("i,j,k->ijk", [0.34, 0.33, 0.33], [0.98, 0.01, 0.01], [0.6, 0.2, 0.2])
    for name in ("entropy", "margin", "top_probability"):
        order: list[int] = []
        made = decoder(name)
        made.watch = lambda prompt, sample, place, token, order=order: order.append(place)  # type: ignore[misc]
        made.generate(Posterior(law), [[]], 3, Rng(0))
        assert order == [1, 2, 0]


def test_margin_waits_where_two_ids_compete() -> None:
    law = np.einsum("i,j,k->ijk", [0.5, 0.49, 0.01], [0.45, 0.275, 0.275], [0.34, 0.33, 0.33])
    first = {}
    for name in ("margin", "top_probability"):
        order: list[int] = []
        made = decoder(name)
        made.watch = lambda prompt, sample, place, token, order=order: order.append(place)  # type: ignore[misc]
        made.generate(Posterior(law), [[]], 3, Rng(0))
        first[name] = order[0]
    assert first == {"margin": 1, "top_probability": 0}


@pytest.mark.parametrize("name", ["top_probability", "margin", "entropy", "threshold", "remask"])
def test_what_a_guide_forbids_is_neither_written_nor_counted(name: str) -> None:
    """Forbidden after the choice, or for the choice and not for how sure it is, an id still bends the order."""
    law = np.einsum("i,j,k->ijk", [0.98, 0.011, 0.009], [0.05, 0.90, 0.05], [0.3, 0.4, 0.3])
    order: list[int] = []
    made = decoder(name, temperature=0.0)
    made.watch = lambda prompt, sample, place, token: order.append(place)
    made.guide = lambda logits, tokens: logits.index_fill(-1, torch.tensor([0]), -torch.inf)
    found = made.generate(Posterior(law), [[]], 3, Rng(0))[0]
    assert 0 not in found
    if name not in ("remask", "threshold"):
        assert order[0] == 1, "without its likeliest id the first place is the least sure of all"


@pytest.mark.parametrize("name", FILLS)
def test_what_is_given_stays_as_it_was(name: str) -> None:
    """Neither a caller's template nor what was shown at first changes while other tokens are hidden and shown."""
    given: list[list[int | None]] = [[None, 2, None], [1, None, None]]
    before = [list(row) for row in given]
    made = decoder(name, temperature=1.0)
    seen: list[list[int]] = []
    made.guide = lambda logits, tokens: seen.extend(tokens.tolist()) or logits  # type: ignore[func-returns-value]
    list(made.infill(Posterior(joint()), given, Rng(0)))
    assert given == before
    assert all(row[1] == 2 or row[0] == 1 for row in seen)


def test_noise_is_drawn_in_float64() -> None:
    """In float32 no uniform number but 0 lies below 6e-8, and rare ids come far too seldom (arXiv 2409.02908)."""
    scores = torch.tensor([[0.0, 30.0]], dtype=torch.float64)
    uniform = torch.tensor([[1e-15, 0.5], [1e-7, 0.5]], dtype=torch.float64)
    assert gumbel_max(scores.expand(2, 2), uniform).tolist() == [0, 1]
    assert gumbel_max(scores, torch.zeros(1, 2, dtype=torch.float64)).tolist() == [1]


@pytest.mark.parametrize("name", FILLS)
def test_every_decoder_draws_so_whatever_its_models_precision(
    name: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[torch.dtype] = set()

    def watched(scores: Tensor, uniform: Tensor) -> Tensor:
        kinds.update((scores.dtype, uniform.dtype))
        return gumbel_max(scores, uniform)

    monkeypatch.setattr(unmask_part, "gumbel_max", watched)
    decoder(name, None).generate(model, [[1]], 4, Rng(0))
    assert kinds == {torch.float64}


# ---------------------------------------------------------------- recorded samplers of public code


class Recorded(torch.nn.Module):
    """The toy model of the recorded vectors; what it may not see is as if it were not there."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.tensors = [torch.from_numpy(data[f"toy_{name}"]) for name in "EMUT"]
        self.head = torch.nn.Parameter(torch.zeros(12, 1))

    def forward(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        embedded, mixing, out, factor = self.tensors
        x = embedded[tokens]
        if isinstance(seen, Documents):
            x = x * (seen.ids == 0)[..., None]
        length = tokens.shape[1]
        return factor * torch.tanh(mixing[:length, :length] @ x) @ out / 4


@pytest.fixture(scope="module", params=range(3))
def data(request: pytest.FixtureRequest, shared: Path) -> Any:
    return np.load(shared / "data" / "models" / f"ref_vectors_{request.param}.npz")


RECORDED = Filling(mask=11, ids=12, pattern=FullPattern())


def templates(start: Any) -> list[list[int | None]]:
    return [[None if i == 11 else int(i) for i in row] for row in start]


def whole(found: Any, start: Any) -> list[list[int]]:
    texts = []
    for each, template in zip(found, templates(start), strict=True):
        ids = iter(each.ids)
        texts.append([next(ids) if i is None else i for i in template])
    return texts


@pytest.mark.parametrize(("ours", "theirs"), [("top_probability", "top_k"), ("margin", "top_k_margin")])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_orders_are_those_of_recorded_decoders(ours: str, theirs: str, count: int, data: Any) -> None:
    start, made = data["decode_start"], decoder(ours, RECORDED, per_call=count, temperature=0.0)
    assert (
        whole(made.infill(Recorded(data), templates(start), Rng(0)), start) == data[f"decode_{theirs}_{count}"].tolist()
    )


@pytest.mark.parametrize(("ours", "theirs"), [("top_probability", "top_k"), ("margin", "top_k_margin")])
def test_blocks_that_see_nothing_ahead_are_those_of_recorded_decoders(ours: str, theirs: str, data: Any) -> None:
    start = data["decode_start"]
    filling = Filling(mask=11, ids=12, pattern=FullPattern(), block=8)
    made = decoder(ours, filling, per_call=2, ahead=False, temperature=0.0)
    found = whole(made.infill(Recorded(data), templates(start), Rng(0)), start)
    assert found == data[f"decode_block8_{theirs}_2"].tolist()


@pytest.mark.parametrize(("block", "steps"), [(16, 16), (16, 8), (8, 8), (4, 16)])
def test_steps_and_blocks_are_those_of_llada(block: int, steps: int, data: Any) -> None:
    """Its steps are of the whole text: each of 16 / block blocks gets as many."""
    prompts = np.minimum(data["decode_start"][:3, :8], 10).tolist()
    per_block = steps * block // 16
    made = decoder("top_probability", RECORDED, block=block, steps=per_block, temperature=0.0)
    found = made.generate(Recorded(data), prompts, 16, Rng(0))
    assert [p + ids for p, ids in zip(prompts, found, strict=True)] == data[f"llada_block{block}_steps{steps}"].tolist()


def test_a_blocks_tokens_are_divided_among_its_steps_as_in_llada(data: Any) -> None:
    wanted = data["llada_num_transfer_steps4"].tolist()
    for hidden, counts in zip(data["llada_mask_index"], wanted, strict=True):
        shown: list[int] = []
        made = decoder("top_probability", RECORDED, steps=4, temperature=0.0)
        model = Recorded(data)
        made.guide = lambda logits, tokens, shown=shown: shown.append(int((tokens == 11).sum())) or logits  # type: ignore[misc,func-returns-value]
        list(made.infill(model, [[None if h else 1 for h in hidden]], Rng(0)))
        assert [a - b for a, b in zip(shown, [*shown[1:], 0], strict=True)] == counts


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("t", [3, 10, 17])
def test_what_is_hidden_again_is_what_a_recorded_decoder_hides(decay: str, t: int, data: Any) -> None:
    how: Any = get("decoder", "remask")(steps=20, decay=decay)
    scores, may = torch.from_numpy(data["hk_scores"]), torch.from_numpy(~data["prompt_mask"])
    hidden = how.hidden_again(scores, may, torch.full((6,), 19 - t))
    assert torch.equal(hidden, torch.from_numpy(data[f"hk_{decay}_t{t}_T20"] == 11))


# ---------------------------------------------------------------- the house's own model


@pytest.fixture(scope="module")
def model() -> Any:
    return part().build(context())


@pytest.mark.parametrize("name", FILLS)
def test_a_sample_does_not_depend_on_what_else_is_in_the_batch(name: str, model: Any) -> None:
    """Rows of different lengths are filled up, and what they are filled up with is not seen."""
    prompts = [[5, 7, 9, 11, 2, 2, 8], [1], [3, 3, 8]]
    together = decoder(name, None, batch=8).generate(model, prompts, 6, Rng(0))
    for i, prompt in enumerate(prompts):
        alone = decoder(name, None, batch=8).complete(model, [prompt], 6, Rng(0), first=i)
        assert [found.ids for found in alone] == [together[i]]
    assert decoder(name, None, batch=1).generate(model, prompts, 6, Rng(0)) == together


def test_a_sample_costs_the_models_passes(model: Any) -> None:
    found = next(decoder("margin", None, per_call=2).complete(model, [[1, 2]], 7, Rng(0)))
    assert found.calls == 4
    unasked = (2 + 4 + 6 + 8) * 2 * 32 * VOCAB  # of what is shown no logits are computed
    assert found.cost.flops == 4 * model.flops(1, 9, FullPattern()).forward.flops - unasked
    twice = next(decoder("margin", None, per_call=2, guidance=1.0).complete(model, [[1, 2]], 7, Rng(0)))
    assert (twice.calls, twice.cost.flops) == (8, 2 * found.cost.flops)


@pytest.mark.parametrize("name", FILLS)
def test_tokens_are_told_from_left_to_right_each_once(name: str, model: Any) -> None:
    told: dict[tuple[int, int], list[int]] = {}

    def listen(prompt: int, sample: int, token: int) -> bool:
        told.setdefault((prompt, sample), []).append(token)
        return False

    found = list(decoder(name, None, samples=2).complete(model, [[1], [2, 3]], 5, Rng(0), listen=listen))
    assert {(each.prompt, each.sample): each.ids for each in found} == told


def test_a_listener_ends_a_sample_and_a_stop_cuts_it(model: Any) -> None:
    plain = decoder("random_order", None).generate(model, [[1]], 8, Rng(0))[0]
    told = next(decoder("random_order", None).complete(model, [[1]], 8, Rng(0), listen=lambda *_: True))
    assert (told.ids, told.ended) == (plain[:1], "told")
    stopped = next(decoder("random_order", None, stop=plain[3]).complete(model, [[1]], 8, Rng(0)))
    assert (stopped.ids, stopped.ended) == (plain[: plain.index(plain[3])], "stop")
    budget = next(decoder("random_order", None).complete(model, [[1]], 8, Rng(0)))
    assert budget.ended == "budget"


def test_a_stop_within_a_gap_is_a_token_as_any_other(model: Any) -> None:
    plain = next(decoder("margin", None).infill(model, [[1, None, None, 2]], Rng(0))).ids
    again = next(decoder("margin", None, stop=plain[0]).infill(model, [[1, None, None, 2]], Rng(0))).ids
    assert again == plain


def test_stages_go_faster_as_more_is_shown(model: Any) -> None:
    shown: list[int] = []
    made = decoder("margin", None, stages=((0.0, 1), (0.5, 3)))
    mask = model.head.shape[0] - 1
    made.guide = lambda logits, tokens: shown.append(int((tokens == mask).sum())) or logits  # type: ignore[func-returns-value]
    made.generate(model, [[1]], 8, Rng(0))
    assert shown == [8, 7, 6, 5, 4, 1]


def test_cosine_steps_show_few_tokens_first(model: Any) -> None:
    shown: list[int] = []
    made = decoder("margin", None, steps=4, schedule="cosine")
    mask = model.head.shape[0] - 1
    made.guide = lambda logits, tokens: shown.append(int((tokens == mask).sum())) or logits  # type: ignore[func-returns-value]
    made.generate(model, [[1]], 16, Rng(0))
    counts = [a - b for a, b in zip(shown, [*shown[1:], 0], strict=True)]
    assert counts == sorted(counts)
    assert len(counts) == 4


# ---------------------------------------------------------------- what cannot be


def test_clear_errors() -> None:
    law, made = Posterior(joint()), decoder("margin", per_call=4)
    with pytest.raises(UsageError, match="a budget of 3 tokens is smaller than one call, which shows 4"):
        made.generate(law, [[]], 3, Rng(0))
    with pytest.raises(UsageError, match="template 0: hides nothing"):
        list(made.infill(law, [[0, 1, 2]], Rng(0)))
    with pytest.raises(UsageError, match="prompt 1: holds the mask's id 3"):
        made.generate(law, [[0], [3]], 4, Rng(0))
    for wrong in (VALUES + 1, -1):
        with pytest.raises(UsageError, match=f"holds the id {wrong}, which stands for no text"):
            made.generate(law, [[wrong]], 4, Rng(0))
    shifted = decoder("margin", Filling(mask=VALUES, ids=VALUES, pattern=FullPattern(), shifted=True))
    with pytest.raises(UsageError, match="hides its first token"):
        shifted.generate(law, [[]], 2, Rng(0))
    with pytest.raises(UsageError, match="no decoder is named 'margins'"):
        get("decoder", "margins")
    broken = Posterior(np.full([VALUES] * PLACES, np.nan))
    with pytest.raises(NumericsError, match="not finite"):
        decoder("margin").generate(broken, [[]], 3, Rng(0))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("margin", {"steps": 2, "per_call": 2}),
        ("margin", {"schedule": "cosine"}),
        ("margin", {"stages": ((0.5, 2),)}),
        ("margin", {"stages": ((0.0, 1), (0.0, 2))}),
        *((name, field) for name in ("ancestral", "remask") for field in ({"per_call": 2}, {"stages": ((0.0, 2),)})),
        ("ancestral", {"schedule": "cosine"}),
        ("remask", {"block": 4}),
    ],
)
def test_paces_that_contradict_each_other_or_change_nothing_are_refused(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        get("decoder", name)(**fields)


@pytest.mark.parametrize("name", FILLS)
def test_a_decoder_is_the_same_from_all_its_fields(name: str) -> None:
    """A stored recipe names every field of its metrics' decoders, those at their defaults included."""
    made: Any = get("decoder", name)(steps=4)
    assert resolve("decoder", made.model_dump(mode="json")) == made


@pytest.mark.parametrize("name", FILLS)
def test_the_smallest_temperatures_take_the_likeliest(name: str, model: Any) -> None:
    cold, coldest = (decoder(name, None, temperature=t).generate(model, [[1, 2]], 6, Rng(0)) for t in (0.0, 5e-324))
    if name in ("random_order", "ancestral"):  # whose random numbers drawn tokens share
        assert len(coldest[0]) == 6
    else:
        assert cold == coldest


@pytest.mark.parametrize("name", ["margin", "top_probability", "entropy", "threshold", "remask"])
def test_noise_stirs_every_order_that_a_model_gives(name: str, model: Any) -> None:
    def order(**fields: Any) -> list[int]:
        found: list[int] = []
        made = decoder(name, None, temperature=0.0, **fields)
        made.watch = lambda prompt, sample, place, token: found.append(place)
        made.generate(model, [[1]], 12, Rng(0))
        return found

    assert order(noise=50.0) != order()


def test_a_text_longer_than_the_models_positions_is_refused() -> None:
    short = part(positions=8).build(context())
    with pytest.raises(UsageError, match="12 tokens are more than the 8 positions"):
        decoder("margin", None).generate(short, [[1] * 6], 6, Rng(0))
