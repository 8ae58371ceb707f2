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
from isoflop.optim.method import Method

NAMES = dir(optim)


def doc(name: str) -> str:
    found = getattr(optim, name)
    return inspect.cleandoc((vars(found)["__doc__"] if isinstance(found, type) else found.__doc__) or "")


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
    if isinstance(cls, type) and issubclass(cls, SchedulePart):
        assert all(field.description for field in cls.model_fields.values())
        return
    for argument in inspect.signature(cls).parameters:
        assert re.search(rf"^    {argument}: \S", text, re.MULTILINE), argument


RULES = [name for name in NAMES if isinstance(getattr(optim, name), type) and issubclass(getattr(optim, name), Method)]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_says_which_rate_to_begin_with(name: str) -> None:
    told = re.search(r"^    lr: (.*?)^    \w+: ", doc(name), re.MULTILINE | re.DOTALL)
    assert told is not None
    assert re.search(r"begin\s+with .*\d", told[1], re.DOTALL), told[1]
