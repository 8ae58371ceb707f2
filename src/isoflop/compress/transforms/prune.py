"""Minitron's pruning by activations (Muralidharan et al. 2024, arXiv 2407.14679): of units, heads, width, layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from ...core.contracts import LAYER, Calibration, PlainModel, Sliceable, TransformPart
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import WIDTH
from ..watching import ROWS, overhearing, pass_cost, passing

Share = Annotated[float, Field(gt=0, le=1)]
HIDDEN, HEADS, KEYS = ".hidden", ".heads", ".kv_heads"
"""What the names of axes end with that layers have for themselves."""


@part
class PrunePart(TransformPart):
    """Cuts what a model's activations say it needs least: half the size, to be trained on for a while.

    All scores come from one pass over text, without gradients. What is left wants training (``start=``), best with the
    whole model as the teacher: that is much cheaper than training a small one from scratch.

    Example:
        >>> PrunePart(hidden=0.5).count(".hidden", 96, 1)
        48
    """

    hidden: Share = 1.0
    """Share of each feed-forward's units that stays."""
    heads: Share = 1.0
    """Share of each mixer's heads that stays, as many in each key-value group; all groups stay, unless of one head."""
    width: Share = 1.0
    """Share of the channels of the model's vectors that stays."""
    depth: Share = 1.0
    """Share of the layers that stays."""
    importance: Literal["activation", "random"] = "activation"
    """By what is chosen; random is the control that any other has to beat."""
    windows: PositiveInt = 128
    """Windows of the run's training text that are looked at."""
    seed: NonNegativeInt = 0
    """Of those, and of random choices."""
    card = Card(
        summary="Keeps the hidden units, heads, channels and layers with the largest activations, and drops the others",
        paper="Minitron (Muralidharan et al. 2024, arXiv 2407.14679); layers: ShortGPT (Men et al. 2024, 2403.03853)",
        equation="unit: |h_i|, head: |Attn_i|, channel: |norm(x)_i|, mean over positions, 2-norm over windows; "
        "layer: 1 - mean cos(x, layer(x))",
        defaults="1,024 windows",
        differs="a gated unit is scored by what enters the last product; layers by their cosine alone, not by the loss",
        cost="one forward pass over the windows",
    )

    @property
    def watches(self) -> bool:
        return self.importance == "activation"

    def transform(self, model: PlainModel, text: Calibration | None) -> PlainModel:
        wanted, units = self._wanted(model), model.units()
        if self.importance == "random":
            root = Rng(self.seed)("prune")
            scores = {axis: torch.from_numpy(root(axis).at().random(units[axis])) for axis in wanted}
        else:
            assert text is not None
            scores = Scores(model, text, set(wanted)).of(text.tokens(self.windows, self.seed))
        return self._cut(model, {axis: _best(scores[axis], n, units.get(_keys(axis), 0)) for axis, n in wanted.items()})

    def shaped(self, model: PlainModel) -> PlainModel:
        """With the first units of each axis: which ones stay says nothing of the shape, but for layers of two kinds."""
        units = model.units()
        first = {axis: torch.arange(units[axis], 0, -1) for axis in units}
        kept = {axis: _best(first[axis], n, units.get(_keys(axis), 0)) for axis, n in self._wanted(model).items()}
        return self._cut(model, kept)

    def _wanted(self, model: PlainModel) -> dict[str, int]:
        """How many units stay of each axis that is cut."""
        units = model.units()
        for key, ending in (("hidden", HIDDEN), ("heads", HEADS)):
            if getattr(self, key) < 1 and not any(axis.endswith(ending) for axis in units):
                raise UsageError(f"the model has no {key} that could be cut", where="prune", fix="leave it out")
        wanted = {axis: n for axis in units if (n := self._left(axis, units)) < units[axis]}
        if not wanted:
            raise UsageError("nothing is pruned", where="prune", fix="give hidden, heads, width or depth below 1")
        return wanted

    @staticmethod
    def _cut(model: PlainModel, kept: dict[str, list[int]]) -> PlainModel:
        """What is left; heads that are alone in their group take it with them."""
        units = model.units()
        alone = {_keys(axis): places for axis, places in kept.items() if units.get(_keys(axis)) == units[axis]}
        return model.cut({**kept, **alone})

    def _left(self, axis: str, units: dict[str, int]) -> int:
        keys = units.get(_keys(axis), 0)
        return self.count(axis, units[axis], keys if keys < units[axis] else 1)

    def count(self, axis: str, units: int, groups: int) -> int:
        """How many units of an axis stay; UsageError if that is none, or heads that are not whole in each group."""
        shares = {WIDTH.name: self.width, LAYER: self.depth}
        share = shares.get(axis, self.hidden if axis.endswith(HIDDEN) else self.heads if axis.endswith(HEADS) else 1.0)
        each = share * units / max(groups, 1)
        whole = round(each)
        if axis.endswith(HEADS) and abs(each - whole) > 1e-6:
            what = f"{share:g} of {units} heads in {max(groups, 1)} groups breaks groups: {each:g} each"
            raise UsageError(what, where="prune.heads", fix="keep a whole number of each group")
        if not whole:
            raise UsageError(f"{share:g} of the {units} units of {axis} leaves nothing", where="prune", fix="keep more")
        return whole * max(groups, 1)


def _keys(axis: str) -> str:
    """The axis of the key-value heads beside that of heads; "" of any other."""
    return axis.removesuffix(HEADS) + KEYS if axis.endswith(HEADS) else ""


def _best(scores: Tensor, count: int, groups: int) -> list[int]:
    """The units with the largest scores, as many of each group (0: there are none), ascending; of equal ones the first.

    A group of one unit is none.
    """
    groups = groups if 0 < groups < len(scores) else 1
    each = scores.view(groups, -1)
    best = torch.sort(each, dim=1, descending=True, stable=True).indices[:, : count // groups]
    places = best + torch.arange(groups)[:, None] * each.shape[1]
    return sorted(places.flatten().tolist())


class Scores:
    """The importance of the units of axes, from what a model computes on text.

    Args:
        model: that is looked at.
        text: to look at it on.
        axes: which.

    Example:
        >>> from isoflop.core.registry import get
        >>> model = PlainModel(get("model", "transformer")(layers=1), 257, {})
        >>> Scores(model, None, {"blocks.0.mixer.heads"}).readers()
        {'blocks.0.mixer.out': 'blocks.0.mixer.heads'}
    """

    def __init__(self, model: PlainModel, text: Calibration, axes: Collection[str]) -> None:
        self.model, self.text, self.axes = model, text, axes
        self._sums: dict[tuple[str, str], Tensor] = {}

    def of(self, tokens: Tensor) -> dict[str, Tensor]:
        """By axis, float64 (units,): the larger the more it is needed.

        Args:
            tokens: int64 (windows, length).

        Raises:
            UsageError: an axis has no activations that could be looked at.
        """
        live, pattern, readers = self.text.live(self.model), self.text.pattern, self.readers()
        each = {axis.name: axis.each for shape in self.model.shapes() for axis in shape.axes}

        def units(name: str, x: Tensor) -> None:
            of, x = readers[name], x if x.ndim == 3 else x.flatten(0, -2)[None]  # else its windows are not known
            self._add(of, name, x.double().view(*x.shape[:-1], -1, each[of]).norm(dim=-1))

        def channels(name: str, x: Tensor, made: Tensor) -> None:
            self._add(WIDTH.name, name, made.double().abs())

        def layers(name: str, x: Tensor, made: Tensor) -> None:
            self._add(LAYER, name, 1 - F.cosine_similarity(x.double(), made.double(), dim=-1)[..., None])

        with (
            overhearing({name: live.get_submodule(name) for name in readers}, units),
            passing({name: live.get_submodule(name) for name in self.norms()}, channels),
            passing({name: live.get_submodule(name) for name in self.layers()}, layers),
        ):
            for rows in torch.split(tokens, ROWS):
                live.hidden(rows, pattern)  # type: ignore[operator]
        self.text.charge(pass_cost(self.model, tokens, pattern))
        return {axis: self._joined(axis) for axis in self.axes}

    def readers(self) -> dict[str, str]:
        """The matrices whose columns run over one of the axes, by name, with that axis."""
        found = ((s.name.removesuffix(".weight"), s.axes[1].name) for s in self.model.shapes() if len(s.axes) == 2)
        return {name: axis for name, axis in found if axis in self.axes and axis != WIDTH.name}

    def norms(self) -> list[str]:
        """The norms of the model's vectors, if their channels are wanted."""
        gains = (s for s in self.model.shapes() if s.role == "norm" and s.axes == (WIDTH,))
        return [s.name.rpartition(".")[0] for s in gains] if WIDTH.name in self.axes else []

    def layers(self) -> list[str]:
        """The layers, if they are wanted."""
        assert isinstance(self.model.part, Sliceable)
        count = self.model.units()[LAYER] if LAYER in self.axes else 0
        return [f"{self.model.part.stack}.{i}" for i in range(count)]

    def _add(self, axis: str, name: str, found: Tensor) -> None:
        """(batch, length, units): the mean over positions, of which the 2-norm over windows is taken."""
        mean = found.mean(1)
        total = mean.sum(0) if axis == LAYER else mean.square().sum(0)
        self._sums[axis, name] = self._sums.get((axis, name), 0) + total

    def _joined(self, axis: str) -> Tensor:
        found = [total for (of, _), total in self._sums.items() if of == axis]
        if not found:
            what = f"nothing that the model computes shows the importance of {axis}"
            raise UsageError(what, where="prune.importance", fix="use importance=random, or cut another axis")
        return torch.cat(found) if axis == LAYER else sum((total.sqrt() for total in found), torch.zeros(()))
