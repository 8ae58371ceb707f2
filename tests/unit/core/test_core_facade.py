"""A package offers what its folders' files define, and imports a file when its name is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import isoflop
from isoflop.core.facade import classes_in

FACADES = {
    "optim": ("optimizers", "schedules", "averaging"),
    "laws": ("forms",),
}


def test_public_classes_are_read_off_the_files(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("class One:\n    class Inner: ...\nclass _Own: ...\nclass OnePart(One): ...\n")
    (tmp_path / "two.py").write_text('"""class Fake is no class."""\nclass Two(Exception): ...\nclass Three: ...\n')
    (tmp_path / "_shared.py").write_text("class Shared: ...\n")
    assert classes_in(tmp_path) == {"One": "one", "Two": "two", "Three": "two"}


@pytest.mark.parametrize("facade", FACADES)
def test_every_class_of_a_folder_is_offered_once(facade: str) -> None:
    package = import_module(f"isoflop.{facade}")
    for folder in FACADES[facade]:
        for file in (Path(isoflop.__file__).parent / facade / folder).glob("[!_]*.py"):
            module = import_module(f"isoflop.{facade}.{folder}.{file.stem}")
            defined = [n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef)]
            for name in defined:
                if not name.startswith("_") and not name.endswith("Part"):
                    assert name in dir(package)
                    assert getattr(package, name) is getattr(module, name)


@pytest.mark.parametrize("facade", ["optim", "laws", "merge"])
def test_every_name_can_be_had_and_others_are_refused(facade: str) -> None:
    package = import_module(f"isoflop.{facade}")
    assert sorted(package.__all__) == dir(package)
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match=rf"isoflop\.{facade}' has no attribute 'nothing'"):
        _ = package.nothing


def test_listing_imports_no_method() -> None:
    code = (
        "import sys, isoflop.optim, isoflop.merge, isoflop.laws;"
        "[dir(p) for p in (isoflop.optim, isoflop.merge, isoflop.laws)];"
        "assert 'torch' not in sys.modules; from isoflop.laws import Chinchilla; from isoflop.optim import Lion;"
        "print([n for n in sys.modules if n.startswith('isoflop.optim.optimizers.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['isoflop.optim.optimizers.lion']"
