"""Progressive unmasking: what is shown after each step, in what order, and that nothing of it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Listens, Loss, TokenBatch
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.data.progressive import ProgressiveBatches, ShownRow, Stages, surest
from isoflop.store.run import Run
from isoflop.train.build import assemble

LENGTH = 12


class Counted:
    """Rows that hold their number; the first three tokens are a prompt."""

    def __init__(self, prompt: int = 3) -> None:
        self.position, self.prompt = 0, prompt

    def __next__(self) -> TokenBatch:
        ids = torch.full((1, LENGTH + 1), self.position)
        self.position += 1
        mask = torch.arange(LENGTH)[None] >= self.prompt
        return TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=1, mask=mask)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.position = state["position"]


def stream_of(rows: int = 4, accumulate: int = 1, **stages: Any) -> ProgressiveBatches:
    made = {"batch": rows, "accumulate": accumulate, "rng": Rng(1), "fingerprint": "f"}
    return ProgressiveBatches(Counted(), Stages(**stages), **made)  # type: ignore[arg-type]


def heard(batch: TokenBatch, step: int, confidence: torch.Tensor | None = None) -> Loss:
    draw = torch.Generator().manual_seed(step)
    drawn = -torch.rand(batch.targets.shape, generator=draw) - 1
    return Loss(torch.tensor(0.0), kept={"confidence": drawn if confidence is None else confidence})


def walked(stream: ProgressiveBatches, steps: int) -> list[TokenBatch]:
    """The batches of some steps, each heard of."""
    found = []
    for step in range(steps):
        found.append(next(stream))
        stream.learn(found[-1], heard(found[-1], step))
    return found


def same(a: TokenBatch, b: TokenBatch) -> bool:
    return torch.equal(a.targets, b.targets) and torch.equal(a.columns["hidden"], b.columns["hidden"])


def test_a_row_is_shown_more_at_each_step_and_replaced_when_it_is_done() -> None:
    stream = stream_of(rows=8, phases=4)
    assert isinstance(stream, Listens)
    batches = walked(stream, 12)
    hidden = [batch.columns["hidden"] for batch in batches]
    assert not any(h[:, :3].any() for h in hidden), "a prompt is never hidden"
    assert all(h.any(1).all() for h in hidden), "something is always left to predict"
    for before, after, h, then in zip(batches, batches[1:], hidden, hidden[1:], strict=False):
        stays = (before.targets == after.targets).all(1)
        assert (then[stays] <= h[stays]).all(), "what is shown stays shown"
        assert int((~stays).sum()) == 2, "the phases are spread evenly: of 8 rows 2 are done at each of 4 steps"
    stays_for = [int(sum((b.targets == number).all(1).sum() for b in batches)) for number in range(8, 20)]
    assert set(stays_for) == {4}


def test_phases_show_their_share() -> None:
    """In phase k of K, k/K to (k + 1)/K of what may be hidden is shown, rounded; one place at least is not."""
    stream = stream_of(rows=16, phases=3)
    for batch in walked(stream, 9):
        for row in stream._rows:
            shown = 9 - int(row.hidden.sum())
            assert 3 * row.phase <= shown <= min(8, 3 * row.phase + 3)
        assert np.bincount([row.phase for row in stream._rows]).tolist() in ([6, 5, 5], [5, 6, 5], [5, 5, 6])
        assert batch.columns["hidden"].any(1).all()


def test_places_are_shown_where_the_model_is_surest() -> None:
    hidden = np.array([True, True, False, True, True])
    confidence = np.array([-3.0, -1.0, 0.0, -2.0, -1.0])
    assert surest(hidden, confidence, 3).tolist() == [1, 4, 3], "of equally sure ones the first"
    assert surest(hidden, confidence, 3, block=2).tolist() == [1, 0, 3], "earlier blocks first"


def test_the_recorded_step_is_made(shared: Path) -> None:
    for number in range(3):
        kept = np.load(shared / "data" / "models" / f"ref_vectors_{number}.npz")
        hidden, confidence = kept["xt"] == 11, kept["log_probs"].max(-1)
        for row, count in enumerate(kept["reveal_n"]):
            after = hidden[row].copy()
            after[surest(hidden[row], confidence[row], int(count))] = False
            expected = np.where(after, 11, np.where(hidden[row], kept["x0"][row], kept["xt"][row]))
            assert np.array_equal(expected, kept["puma_xt_next"][row])


def test_what_is_sure_is_shown_at_once_and_the_phase_follows() -> None:
    stream = stream_of(rows=4, phases=6, sure=0.9)
    batch = next(stream)
    confidence = torch.full((4, LENGTH), -5.0)
    confidence[0] = -0.01  # all sure: done
    confidence[1, 6:] = -0.01
    stream.learn(batch, heard(batch, 0, confidence))
    after = next(stream)
    assert (after.targets[0] != batch.targets[0]).all()
    assert not after.columns["hidden"][1, 6:].any()
    assert stream._rows[1].phase == int(stream._rows[1].shown * 6)


def test_phases_grow_after_the_first_interval_not_before_it() -> None:
    stages = Stages(phases=4, more=2, every=3, most=7)
    assert [stages.at(step) for step in range(10)] == [4, 4, 4, 6, 6, 6, 7, 7, 7, 7]
    stream = stream_of(rows=4, phases=2, more=2, every=3, most=8)
    walked(stream, 5)
    assert {row.phases for row in stream._rows} == {4}
    assert all(0 <= row.phase < 4 for row in stream._rows)


def test_phases_of_another_number_keep_what_is_shown() -> None:
    batch = next(Counted(0))
    may = np.ones(LENGTH, np.bool_)
    row = ShownRow({}, batch, may, np.arange(LENGTH) >= 6, 1, 2).at_phases(8)
    assert (row.phase, row.phases, row.shown) == (4, 8, 0.5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_goes_on_from_a_stored_state_as_if_nothing_had_been(accumulate: int) -> None:
    stream = stream_of(accumulate=accumulate, phases=3, sure=0.3)
    walked(stream, 7 * accumulate)
    state = json.loads(json.dumps(stream.state_dict()))
    wanted = walked(stream, 9 * accumulate)
    resumed = stream_of(accumulate=accumulate, phases=3, sure=0.3)
    resumed.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(walked(resumed, 9 * accumulate), wanted, strict=True))


def test_micro_batches_are_heard_in_their_turn() -> None:
    stream = stream_of(rows=2, accumulate=2, phases=5)
    first, second = next(stream), next(stream)
    assert not torch.equal(first.targets, second.targets)
    for step, batch in enumerate((first, second)):
        stream.learn(batch, heard(batch, step))
    assert set(next(stream).targets[:, 0].tolist()) & set(first.targets[:, 0].tolist())
    assert set(next(stream).targets[:, 0].tolist()) & set(second.targets[:, 0].tolist())


def test_another_corpus_or_batch_is_refused() -> None:
    state = stream_of().state_dict()
    with pytest.raises(DataError, match="batch was 4, is 5"):
        stream_of(rows=5).load_state_dict(state)


def test_rows_of_which_nothing_is_predicted_are_passed_over_or_told() -> None:
    stream = ProgressiveBatches(Counted(LENGTH), Stages(), batch=2, accumulate=1, rng=Rng(0), fingerprint="")
    with pytest.raises(DataError, match="nothing is predicted in 1000 rows"):
        next(stream)


# ---------------------------------------------------------------- in a run

PROGRESSIVE = 'source={name="progressive", phases=3, source={name="pcfg", text_bytes=20000, heldout_bytes=300}}'


def recipe_of(tiny: Callable[..., Path], *changes: str) -> Recipe:
    return Recipe.load(
        tiny("objective=masked", "train.length=16", "metrics=[{name='bits_per_byte'}]"), PROGRESSIVE, *changes
    )


def test_a_run_trains_on_it_and_resumes_with_the_same_bytes(tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = recipe_of(tiny, "train.accumulate=2", "budget.steps=8")
    whole = assemble(recipe, Run.open(tmp_path / "a", recipe))
    losses = [whole.train_step()[0].loss for _ in range(8)]
    assert len(set(losses)) == 8
    half = assemble(recipe, Run.open(tmp_path / "b", recipe))
    for _ in range(3):
        half.train_step()
    half.save()
    again = assemble(recipe, Run.open(tmp_path / "b", recipe))
    again.resume()
    assert [again.train_step()[0].loss for _ in range(5)] == losses[3:]
    for name, weight in whole.parts.model.state_dict().items():
        assert torch.equal(weight, again.parts.model.state_dict()[name])
    assert whole.ledger.to_json()["train"]["flops"] == again.ledger.to_json()["train"]["flops"]


def test_nobody_looks_ahead_in_what_listens(tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = recipe_of(tiny)
    loop = assemble(recipe, Run.open(tmp_path / "a", recipe))
    step = loop.parts.optimizer.step

    def looking(problem: Any) -> Any:
        with pytest.raises(Exception, match="nothing is known of the data of the next step"):
            problem.fresh()
        return step(problem)

    loop.parts.optimizer.step = looking  # type: ignore[method-assign]
    loop.train_step()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (("objective=next_token",), "next_token does not fill in"),
        (("budget={text_bytes=1000}",), "depends on what the model learns"),
    ],
)
def test_what_it_does_not_fit_is_told(tiny: Callable[..., Path], changes: tuple[str, ...], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        recipe_of(tiny, *changes)
