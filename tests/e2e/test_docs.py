"""Generated documentation is what the parts say now; `make docs` writes it anew."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


GENERATED = [
    "docs/cards.md",
    "docs/claims.md",
    "docs/optimizers.md",
    "docs/guide/recipes.md",
    "docs/guide/studies.md",
    "docs/guide/hugging-face.md",
    *(f"src/isoflop/{package}/__init__.pyi" for package in ("laws", "merge", "optim")),
]


def test_what_is_generated_is_current(tmp_path: Path) -> None:
    for file in GENERATED:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    for page in ("optimizers.md", "guide/recipes.md", "guide/studies.md", "guide/hugging-face.md"):
        shutil.copy(ROOT / "docs" / page, tmp_path / "docs" / page)
    subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), str(tmp_path)], check=True)
    for file in GENERATED:
        assert (tmp_path / file).read_text() == (ROOT / file).read_text(), "run `make docs`"


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")))
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / "docs" / page).parent / target).exists(), target


@pytest.mark.parametrize("stored", ["three-methods/demo", "muon-small/unit-init", "muon-small/small-init"])
def test_the_stored_results_say_what_the_code_says(stored: str) -> None:
    from isoflop.lab.study import Study
    from isoflop.lab.verdict import headline
    from isoflop.lab.wording import sentence
    from isoflop.store.results import StudyResult

    result = StudyResult.read(ROOT / "claims" / f"{stored}.json")
    study = Study.load(stored.partition("/")[2])
    assert [row.sentence for row in result.multipliers] == [sentence(row, "adamw") for row in result.multipliers]
    assert result.headline == headline(study, result.multipliers, result.tunings)
    if stored == "three-methods/demo":
        readme = " ".join((ROOT / "README.md").read_text().split())
        assert all(line in readme for line in result.headline.splitlines())
        assert {run.recipe_hash for run in result.runs} >= {study.run_recipe("adamw", 0, 1, 0.032).hash}


def test_every_public_name_is_there_and_no_folder_hides_it() -> None:
    import isoflop

    for name in isoflop.__all__:
        assert getattr(isoflop, name) is not None
        assert not (ROOT / "src" / "isoflop" / name).is_dir(), f"importing the folder {name} would replace the name"
