"""Hours and energy of a plan on accelerators, from what their vendors publish."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...core.errors import UsageError, nearest
from .answer import Answer, Figure, Plan, digits

MFU = 0.4
"""Share of the peak that is assumed where none is given: what well-tuned training of large models reaches."""


@dataclass(frozen=True)
class Accelerator:
    """One chip as its vendor describes it.

    Attributes:
        peak: FLOP/s of dense products in bf16.
        watts: thermal design power, or the most that was published; None: nothing was.
        source: of both.

    Example:
        >>> ACCELERATORS["H200"].watts
        700
    """

    peak: float
    watts: float | None
    source: str


ACCELERATORS = {
    "A100": Accelerator(312e12, 400, "NVIDIA A100 80GB SXM data sheet"),
    "H100": Accelerator(989e12, 700, "NVIDIA H100 SXM data sheet"),
    "H200": Accelerator(989e12, 700, "NVIDIA H200 SXM data sheet"),
    "B200": Accelerator(2250e12, 1000, "NVIDIA HGX B200 data sheet"),
    "RTX4090": Accelerator(165.2e12, 450, "NVIDIA Ada architecture white paper, fp32 sums"),
    "MI300X": Accelerator(1307.4e12, 750, "AMD Instinct MI300X data sheet"),
    "TPUv4": Accelerator(275e12, 192, "Google Cloud documentation; power: Jouppi et al. 2023, arXiv 2304.01433"),
    "TPUv5e": Accelerator(197e12, None, "Google Cloud documentation"),
    "TPUv5p": Accelerator(459e12, None, "Google Cloud documentation"),
    "TPUv6e": Accelerator(918e12, None, "Google Cloud documentation"),
}
"""By name; NVIDIA's peaks are its numbers with sparsity, halved."""


def machines(text: str) -> tuple[int, str]:
    """(how many, which) of ``8xH200``; capitals, blanks and hyphens do not matter, one needs no number.

    Raises:
        UsageError: no such accelerator, or no positive number of them.

    Example:
        >>> machines("8xH200"), machines("256 x tpu-v5e"), machines("rtx 4090")
        ((8, 'H200'), (256, 'TPUv5e'), (1, 'RTX4090'))
    """
    count, name = re.fullmatch(r"(?:\s*(\d+)\s*[x*])?\s*(.*?)\s*", text, re.S | re.I).groups()  # type: ignore[union-attr]
    wanted = re.sub(r"[\s_-]", "", name).lower()
    found = next((known for known in ACCELERATORS if known.lower() == wanted), None)
    if found is None:
        raise UsageError(f"no accelerator is named {name!r}", where="gpus", fix=nearest(name, ACCELERATORS))
    if count is not None and int(count) == 0:
        raise UsageError("0 accelerators train nothing", where="gpus", fix=f"e.g. 8x{found}")
    return int(count or 1), found


def on_machines(plan: Plan, gpus: str, mfu: float | None = None, compute: float | None = None) -> Plan:
    """The plan with what its training takes: hours, and energy of the accelerators alone.

    The intervals are those of the training's FLOPs; the share of the peak that a run reaches is taken as known.

    Args:
        plan: with a figure C, unless ``compute`` is given.
        gpus: e.g. ``8xH200``.
        mfu: model FLOPs, as a share of the peak; None: 0.4, which is said.
        compute: training FLOPs as asked for, which no answer repeats.

    Raises:
        UsageError: an unknown accelerator, a share outside ]0, 1], a plan without a compute.

    Example, with ``fitted(law)`` a fit:
        >>> from isoflop.laws.plan.ask import plan
        >>> made = on_machines(plan(fitted("chinchilla"), compute=1e21), "8xH100", 0.5, compute=1e21)
        >>> round(made["hours"].value, 1), round(made["energy"].value)
        (70.2, 393)
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise UsageError(f"mfu {mfu:g}", where="mfu", fix="give a share of the peak, e.g. 0.4")
    count, name = machines(gpus)
    chip, share = ACCELERATORS[name], MFU if mfu is None else mfu
    spent = _training(plan, compute)
    hour = 3600.0 * count * chip.peak * share
    figures = [_times(spent, "hours", 1 / hour, "h"), _times(spent, "accelerator hours", count / hour, "h")]
    warnings = [] if mfu is not None else [f"no share of the peak is given: {MFU:g} is assumed"]
    if chip.watts is None:
        warnings.append(f"no power of {name} is published: its energy is not known")
    else:
        figures.append(_times(spent, "energy", count * chip.watts / 1000 / hour, "kWh"))
    power = "" if chip.watts is None else f", {chip.watts:g} W, hosts and cooling left out"
    answer = Answer(
        f"training of C = {digits(spent.value)} FLOPs on {count} x {name}",
        tuple(figures),
        f"{share:.3g} of {chip.peak / 1e12:g} TFLOP/s (dense bf16){power}: {chip.source}",
        "runs that do not keep these accelerators busy all the time",
        plan.answers[0].level,
        None,
        tuple(warnings),
    )
    return replace(plan, answers=(*plan.answers, answer))


def _training(plan: Plan, compute: float | None) -> Figure:
    """FLOPs of training: as asked for, or the last answer's that says them."""
    if compute is not None:
        return Figure("C", compute, compute, compute, "FLOPs")
    for answer in reversed(plan.answers):
        for figure in answer.figures:
            if figure.name == "C":
                return figure
    raise UsageError("no answer says what training costs", where="gpus", fix="ask for a compute, a loss, or N and D")


def _times(figure: Figure, name: str, factor: float, unit: str) -> Figure:
    return Figure(name, factor * figure.value, factor * figure.low, factor * figure.high, unit)
