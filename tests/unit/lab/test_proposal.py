"""A proposal finds what it was asked for as often as it says, and nothing cheaper of those tried does."""

from __future__ import annotations

import pytest

from isoflop.core.errors import UsageError
from isoflop.lab.power import POWER, noise_of, sights
from isoflop.lab.proposal import SEEDS, _chance, _Costs, propose
from isoflop.lab.workers import Assignment


@pytest.fixture(scope="module")
def study(tiny):
    return tiny.with_("expect.seed_sd=0.01", "tuning.points=3")


def runs_of(study) -> float:
    """FLOPs of all planned runs, counted run by run."""
    from isoflop.lab.compare import planned_flops

    return planned_flops(study)


@pytest.mark.parametrize("detect", [1.5, 1.2, 0.8])
def test_the_proposal_is_a_legal_study_that_finds_the_effect(study, detect):
    proposal = propose(study, detect)
    made = study.with_(*proposal.overrides)
    assert proposal.chance >= POWER
    assert proposal.flops == pytest.approx(runs_of(made), rel=0.02), "its cost is that of its runs"
    flops = {
        (arm, rung): Assignment(made.run_recipe(arm, rung, 1), arm, rung, "evaluation").flops
        for arm in made.everyone
        for rung in made.rungs_of(arm)
    }
    (seen,) = sights(made, flops, noise_of(made, None))
    assert seen.low < detect < seen.high
    if detect > 1:
        assert seen.smallest <= detect * 1.02


def test_nothing_cheaper_finds_it(study):
    proposal, costs, noise = propose(study, 1.2), _Costs(study), noise_of(study, None)
    cheaper = [
        (rungs, at, seeds)
        for rungs in range(3, 6)
        for at in range(rungs - 1)
        for seeds in SEEDS
        if costs.total(rungs, at, seeds) < proposal.flops
    ]
    assert cheaper
    assert all(_chance(costs, noise, 1.2, *form) < POWER for form in cheaper)


def test_what_cannot_be_found_is_refused(study):
    with pytest.raises(UsageError, match="is no effect"):
        propose(study, 1.0)
    with pytest.raises(UsageError, match=r"finds 1\.001x"):
        propose(study, 1.001)
