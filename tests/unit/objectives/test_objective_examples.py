"""The examples of the objectives' docstrings run as they stand, given a model, a teacher and a batch."""

from __future__ import annotations

import re
import textwrap
from itertools import repeat
from typing import Any

import pytest
import torch

from isoflop.core.contracts import Draws, Filling, TokenBatch, Treatment
from isoflop.core.rng import Rng
from isoflop.core.roles import parameter_groups
from isoflop.models.patterns.full import FullPattern
from isoflop.objectives.losses.distill import Distill
from isoflop.objectives.losses.ewc import EWC
from isoflop.objectives.losses.flexmdm import FlexMdm, FlexMdmPart
from isoflop.objectives.losses.l2_to_start import L2ToStart
from isoflop.objectives.losses.masked import Masked
from isoflop.objectives.losses.next_token import NextToken
from isoflop.objectives.losses.weighted import Weighted
from isoflop.objectives.pull import Pull
from transformer_toys import VOCAB, context, part

CLASSES = (Distill, EWC, FlexMdm, L2ToStart, Masked, NextToken, Weighted)


def example(cls: type) -> str:
    found = re.search(r"Example::\n\n(.*?)\n\n    Args", cls.__doc__ or "", re.DOTALL)
    assert found is not None, f"{cls.__name__} shows no example"
    return textwrap.dedent(found[1])


@pytest.mark.parametrize("cls", CLASSES)
def test_an_example_runs_and_leaves_an_objective(cls: type) -> None:
    ids = torch.randint(0, VOCAB - 6, (2, 9), generator=torch.Generator().manual_seed(1))
    batch = TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=16, draws=Draws(Rng(0)))
    chosen = part().treated(Treatment(owned=FlexMdmPart().owned if cls is FlexMdm else None))
    model, teacher = (chosen.build(context(rng=Rng(seed))) for seed in (0, 1))
    names: dict[str, Any] = {
        known.__name__: known for known in (*CLASSES, Filling, FlexMdmPart, FullPattern, Pull, Rng, parameter_groups)
    }
    names |= {"batch": batch, "model": model, "teacher": teacher, "old_windows": repeat(batch)}
    exec(compile(example(cls), cls.__name__, "exec"), names)
    assert torch.isfinite(names["objective"].loss(batch).total)
