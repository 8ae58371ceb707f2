"""Cutting feed-forwards to their first units: what nested ones were trained for (MatFormer, arXiv 2310.07707)."""

from __future__ import annotations

from pydantic import PositiveInt

from ...core.contracts import LAYER, Calibration, PlainModel, TransformPart
from ...core.errors import UsageError
from ...core.registry import Card, part

HIDDEN = ".hidden"
"""What the names of feed-forwards' inner axes end with."""


@part
class SlicePart(TransformPart):
    """Keeps the first units of each feed-forward. For models whose first units were trained to work alone.

    Use ``prune`` for any other model: its units are in no order.

    Example:
        >>> SlicePart(hidden_widths=(64, 128)).hidden_widths
        (64, 128)
    """

    hidden_widths: PositiveInt | tuple[PositiveInt, ...]
    """Units that stay: of every layer, or one number for each."""
    card = Card(
        summary="Keeps the first hidden units of each feed-forward, of every layer as many or of each its own number",
        paper="MatFormer (Devvrit et al. 2023, arXiv 2310.07707)",
        equation="W_up' = W_up[:m], W_down' = W_down[:, :m]",
        cost="none; no data",
    )

    def transform(self, model: PlainModel, text: Calibration | None) -> PlainModel:
        return self.shaped(model)

    def shaped(self, model: PlainModel) -> PlainModel:
        units = model.units()
        axes = [axis for axis in units if axis.endswith(HIDDEN)]
        if not axes:
            what = "no feed-forward of the model has units in an order along which it could be cut"
            raise UsageError(what, where="slice.hidden_widths", fix="slice a model of nested or plain feed-forwards")
        widths = (self.hidden_widths,) * len(axes) if isinstance(self.hidden_widths, int) else self.hidden_widths
        if len(widths) != len(axes):
            what = f"has {len(widths)} in its list, for {len(axes)} feed-forwards of {units.get(LAYER, 0)} layers"
            raise UsageError(what, where="slice.hidden_widths", fix="give a number for all, or a list of one a layer")
        for axis, width in zip(axes, widths, strict=True):
            if width > units[axis]:
                what = f"{axis} has {units[axis]} units, not {width}"
                raise UsageError(what, where="slice.hidden_widths", fix="give at most as many")
        return model.cut({axis: range(width) for axis, width in zip(axes, widths, strict=True)})
