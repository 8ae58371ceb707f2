"""Hours and energy of a plan."""

from __future__ import annotations

import pytest

from isoflop.core.errors import UsageError
from isoflop.laws.plan.answer import Answer, Figure, Plan
from isoflop.laws.plan.machines import ACCELERATORS, machines, on_machines

PLAN = Plan((Answer("q", (Figure("C", 1e21, 8e20, 2e21, "FLOPs"),), "a", "b", 0.9),))


@pytest.mark.parametrize("name", ACCELERATORS)
def test_hours_and_energy_follow_from_peak_and_power_with_the_computes_interval(name: str) -> None:
    chip, made = ACCELERATORS[name], on_machines(PLAN, f"16x{name.lower()}", 0.5)
    hours = 1e21 / (16 * chip.peak * 0.5) / 3600
    assert made["hours"].value == pytest.approx(hours)
    assert made["hours"].low == pytest.approx(0.8 * hours)
    assert made["hours"].high == pytest.approx(2 * hours)
    names = [figure.name for figure in made.answers[-1].figures]
    assert ("energy" in names) == (chip.watts is not None)
    if chip.watts is not None:
        assert made["energy"].high == pytest.approx(2 * 16 * hours * chip.watts / 1000)
    assert chip.source in made.answers[-1].assumption


def test_an_open_end_stays_open_and_a_given_compute_has_no_interval() -> None:
    opened = Plan((Answer("q", (Figure("C", 1e21, 8e20, float("inf")),), "a", "b", 0.9),))
    assert on_machines(opened, "H100")["hours"].high == float("inf")
    given = on_machines(PLAN, "H100", compute=5e20)["hours"]
    assert given.low == given.value == given.high


@pytest.mark.parametrize(
    ("gpus", "mfu", "message"),
    [
        ("8xH20O", 0.4, "H200"),
        ("xH100", 0.4, "no accelerator"),
        ("", 0.4, "no accelerator"),
        ("0xH100", 0.4, "train nothing"),
        ("-8xH100", 0.4, "no accelerator"),
        ("8xH100", 0.0, "share of the peak"),
        ("8xH100", 40.0, "share of the peak"),
        ("8xH100", float("nan"), "share of the peak"),
    ],
)
def test_what_is_no_machine_is_refused(gpus: str, mfu: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        on_machines(PLAN, gpus, mfu)


def test_a_plan_without_a_compute_has_no_hours() -> None:
    with pytest.raises(UsageError, match="what training costs"):
        on_machines(Plan((Answer("q", (Figure("epochs", 4, 3, 5),), "a", "b", 0.9),)), "H100")


def test_machines_are_read_whatever_their_spelling() -> None:
    assert machines("8xH200") == machines(" 8 X h-200 ") == (8, "H200")
    assert machines("tpu v5e") == (1, "TPUv5e")
