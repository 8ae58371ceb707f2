"""What a public class of optim says of itself: a reason, one argument a line, and an example that runs."""

from __future__ import annotations

import doctest
import inspect
import re
from typing import Any

import pytest
import torch

import isoflop.optim as optim
from isoflop.core.contracts import SchedulePart
from isoflop.core.roles import Group

NAMES = dir(optim)


def doc(name: str) -> str:
    return inspect.cleandoc(vars(getattr(optim, name))["__doc__"])


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str) -> None:
    """With a layer ``model`` and its input ``x``, torch and the public classes at hand."""
    torch.manual_seed(0)
    at_hand: dict[str, Any] = {each: getattr(optim, each) for each in NAMES}
    at_hand |= {"torch": torch, "Group": Group, "model": torch.nn.Linear(4, 4), "x": torch.ones(2, 4)}
    example = doctest.DocTestParser().get_doctest(doc(name), at_hand, name, None, None)
    assert 2 <= len(example.examples) <= 3
    said: list[str] = []
    doctest.DocTestRunner().run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_a_line(name: str) -> None:
    cls, text = getattr(optim, name), doc(name)
    assert len(text.partition("\n\n")[2].partition("\n\n")[0].split()) >= 8, "says when and why in a paragraph"
    if issubclass(cls, SchedulePart):
        assert all(field.description for field in cls.model_fields.values())
        return
    for argument in inspect.signature(cls).parameters:
        assert re.search(rf"^    {argument}: \S", text, re.MULTILINE), argument
