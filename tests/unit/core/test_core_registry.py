"""Slots and parts: names are listings, only the chosen file is imported, third parties by decorator or by consent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from isoflop.core import registry
from isoflop.core.contracts import SchedulePart
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.registry import SLOTS, Card, Part, part

PLUGIN = """
open({marker!r}, "w").close()
from isoflop.core.contracts import SchedulePart
from isoflop.core.registry import Card, part

@part
class Wave(SchedulePart):
    name = "wave"
    card = Card(summary="Up and down.")
    def factor(self, t, horizon):
        return 1.0
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_registered", {slot: dict(known) for slot, known in registry._registered.items()})


class Still(SchedulePart):
    card: ClassVar[Card] = Card(summary="One.")

    def factor(self, t: int, horizon: int) -> float:
        return 1.0


def test_a_third_party_registers_by_the_decorator() -> None:
    @part
    class Third(Still):
        name: ClassVar[str] = "third"

    assert "third" in registry.names("schedule")
    assert registry.get("schedule", "third") is Third
    assert part(Third) is Third  # a module that is loaded again is no clash


def test_the_name_is_that_of_the_file() -> None:
    made = part(type("Anything", (Still,), {"__module__": "somebody.elses.linear_decay"}))
    assert (made.name, registry.get("schedule", "linear_decay")) == ("linear_decay", made)


def test_two_parts_of_one_name_are_refused() -> None:
    part(type("A", (Still,), {"__module__": "one.same"}))
    with pytest.raises(UsageError, match=r"two parts are named 'same' in slot schedule: one\.same, two\.same"):
        part(type("A", (Still,), {"__module__": "two.same"}))


def test_a_class_of_no_slot_is_refused() -> None:
    with pytest.raises(UsageError, match="fills no slot"):
        part(type("A", (Part,), {"__module__": "one.a"}))


def test_legal_names_are_a_listing_of_the_folder() -> None:
    for slot, folder in SLOTS.items():
        files = {path.stem for path in (Path(registry.__file__).parent.parent / folder).glob("[!_]*.py")}
        assert files <= set(registry.names(slot))
        assert registry.names(slot) == sorted(registry.names(slot))


def test_unknown_names_and_slots_get_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no schedule is named 'cosin'; did you mean cosine\?"):
        registry.get("schedule", "cosin")
    with pytest.raises(UsageError, match=r"no slot is named 'optimiser'; did you mean optimizer\?"):
        registry.names("optimiser")


def test_a_file_that_registers_nothing_under_its_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "import_module", lambda name: None)
    monkeypatch.setattr(registry, "_registered", {slot: {} for slot in SLOTS})
    with pytest.raises(RecipeError, match="registers no part of that name"):
        registry.get("schedule", "cosine")


def test_only_the_chosen_file_is_imported() -> None:
    code = (
        "import sys; from isoflop.core import registry; registry.names('schedule'); registry.get('schedule', 'cosine');"
        "print(sorted(n for n in sys.modules if n.startswith('isoflop.optim.schedules.')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith("['isoflop.optim.schedules.cosine']")


def test_parts_serialise_with_their_name_first() -> None:
    @part
    class Third(Still):
        name: ClassVar[str] = "third"
        rate: float = 0.5

    assert list(Third(rate=0.25).model_dump()) == ["name", "rate"]
    assert Third(rate=0.25).fields() == {"rate": 0.25}


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, Any]:
    """An installed distribution with an entry point of the group ``isoflop.parts``, and how to run Python with it."""
    (tmp_path / "wave_plugin.py").write_text(PLUGIN.format(marker=str(tmp_path / "marker")))
    metadata = tmp_path / "wave_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: wave-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[isoflop.parts]\nwaves = wave_plugin\n")
    places = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {"env": {**os.environ, "PYTHONPATH": places}, "marker": tmp_path / "marker"}


LIST = "from isoflop.core import registry; print('wave' in registry.names('schedule'))"


@pytest.mark.parametrize(("enabled", "loaded"), [("", False), ("waves", True), ("waves,", True)])
def test_a_plugin_is_loaded_only_by_consent(plugin: dict[str, Any], enabled: str, loaded: bool) -> None:
    env = {**plugin["env"], "ISOFLOP_PLUGINS": enabled}
    done = subprocess.run([sys.executable, "-c", LIST], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loaded)
    assert plugin["marker"].exists() is loaded


def test_an_enabled_plugin_that_is_missing_is_an_error(plugin: dict[str, Any]) -> None:
    env = {**plugin["env"], "ISOFLOP_PLUGINS": "wave"}
    done = subprocess.run([sys.executable, "-c", LIST], env=env, capture_output=True, text=True, check=False)
    assert "ISOFLOP_PLUGINS: no plugin is named 'wave'; did you mean waves?" in done.stderr
    assert not plugin["marker"].exists()
