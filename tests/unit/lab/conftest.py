"""The tiny study, and its executor, as fixtures."""

from __future__ import annotations

import pytest

from isoflop.lab.study import Study
from study_toys import TOML, Planted


@pytest.fixture(scope="session")
def tiny() -> Study:
    return Study.from_toml(TOML)


@pytest.fixture
def tiny_toml() -> str:
    return TOML


@pytest.fixture
def planted() -> type[Planted]:
    return Planted
