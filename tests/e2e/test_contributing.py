"""The contributor's guide is true: its method, taken from the page, trains."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core import registry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def momentum_sign(tmp_path: Path) -> Iterator[None]:
    """The guide's optimizer, imported from a file of its name."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert code is not None
    file = tmp_path / "momentum_sign.py"
    file.write_text(code[1])
    spec = importlib.util.spec_from_file_location("momentum_sign", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["momentum_sign"] = module
    spec.loader.exec_module(module)
    yield
    del registry._registered["optimizer"]["momentum_sign"], sys.modules["momentum_sign"]


def test_the_guides_method_trains_by_its_name(
    momentum_sign: None, tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "momentum_sign" in registry.names("optimizer")
    values = []
    for steps in (12, 120):
        chosen = ["optimizer=momentum_sign", "optimizer.lr=0.01", f"budget.steps={steps}"]
        assert invoke(["train", str(tiny()), *chosen, "--root", str(tmp_path / "runs"), "--json"]) == 0
        values.append(json.loads(capsys.readouterr().out)["value"])
    assert values[1] < 0.7 * values[0], "it does not learn"


def test_what_was_only_imported_is_refused_by_a_study(
    momentum_sign: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ['arms.muon.overrides=["optimizer=momentum_sign"]', "--root", str(tmp_path / "runs")]
    assert invoke(["compare", "demo", *chosen]) == 2
    assert "optimizer momentum_sign: is known only to this process, which imported momentum_sign" in (
        said := capsys.readouterr().err
    )
    assert "enable that in ISOFLOP_PLUGINS" in said
    assert not (tmp_path / "runs").exists()
