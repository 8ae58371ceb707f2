"""The contributor's guide is true: its method, taken from the page, trains."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isoflop
from isoflop.cli.main import invoke
from isoflop.core import registry

ROOT = Path(__file__).parents[2]


def guide() -> str:
    """The code of the guide's optimizer."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert code is not None
    return code[1]


@pytest.fixture
def momentum_sign(tmp_path: Path) -> Iterator[None]:
    """The guide's optimizer, imported from a file of its name."""
    file = tmp_path / "momentum_sign.py"
    file.write_text(guide())
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


def test_a_file_in_the_folder_is_all_that_is_needed(tmp_path: Path) -> None:
    """In a copy of the project: the name, the class, the suite and the generated pages know it at once."""
    package = shutil.copytree(
        Path(isoflop.__file__).parent, tmp_path / "src/isoflop", ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in ("claims", "docs", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    (package / "optim/optimizers/momentum_sign.py").write_text(guide())

    def run(*arguments: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offered = "import isoflop.optim as o; print('MomentumSign' in dir(o), o.MomentumSign([], lr=0.5).defaults['lr'])"
    assert run("-c", offered.replace("([]", "([__import__('torch').ones(1)]")).split() == ["True", "0.5"]
    suites = map(str, sorted((tmp_path / "tests/contract").glob("test_optimizer*.py")))
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, "-k", "momentum_sign or MomentumSign")
    suite = (ROOT / "tests/contract/test_optimizer.py").read_text()
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= suite.count('("name", PARTS)') + suite.count('("name", CLASSES)')
    run("docs/generate.py")
    assert "### momentum_sign" in (tmp_path / "docs/cards.md").read_text()
    assert "| `momentum_sign` |" in (tmp_path / "docs/optimizers.md").read_text()
    assert "import MomentumSign as MomentumSign\n" in (package / "optim/__init__.pyi").read_text()
