"""A law before it meets data: a formula, its parameters, and what follows from them (gradients, bases, starts).

Nothing here, nor in what the search and the intervals do with it, needs a fit; ``isoflop.laws.law`` adds ``fit``.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..core.registry import Part
from ..core.rng import Rng
from ..core.table import Table
from ..ledger.conventions import six_nd

Array = npt.NDArray[Any]
Values: TypeAlias = Any
"""An array (k, n), real or complex: what formulas return. numpy's types lose track of it."""
Params = Mapping[str, Array]
Columns = Mapping[str, Array]

_STEP = 1e-30  # of the complex step: no subtraction, so no cancellation
# Solving for the linear constants at so many points takes about a second; a longer product is sampled.
_MOST_STARTS = 4096


@dataclass(frozen=True)
class Parameter:
    """One constant of a law.

    A law lists its constants as these; ``coefficient``, ``exponent`` and ``floor`` make the three usual kinds. What a
    constant says here decides how it is searched for and when its interval counts as one.

    Args:
        name: how it is printed.
        low: lower bound, in natural units.
        high: upper bound, in natural units.
        starts: values the search tries, in natural units; of ``linear`` parameters none are needed.
        log: positive, and fitted as its logarithm.
        linear: the prediction is linear in it, so that the search solves for it exactly (variable projection).
        prior: (mean, standard deviation) of a normal prior in fitted space (of the logarithm if ``log``).
        kind: what an interval must exclude for the parameter to count as identified: an exponent 0, a floor its lower
            bound, a scale nothing but its bounds.

    Example:
        >>> rate = Parameter("a", 0.01, 2.0, starts=(0.1, 0.5, 1.0), kind="exponent")
        >>> rate.log, coefficient("A").linear, floor("E").low
        (False, True, 0.0)
    """

    name: str
    low: float
    high: float
    starts: tuple[float, ...] = ()
    log: bool = False
    linear: bool = False
    prior: tuple[float, float] | None = None
    kind: Literal["scale", "exponent", "floor"] = "scale"


def coefficient(name: str, low: float = 1e-12, high: float = 1e30) -> Parameter:
    """A positive prefactor, solved for exactly.

    Positive, so it is fitted as its logarithm; linear, so the search needs no starts for it.

    Args:
        name: how it is printed.
        low: lower bound, > 0.
        high: upper bound.

    Example:
        >>> coefficient("A").log, coefficient("A").linear
        (True, True)
    """
    return Parameter(name, low, high, log=True, linear=True)


def floor(name: str = "E", high: float = 1e6) -> Parameter:
    """An irreducible value >= 0, solved for exactly. Not fitted as a logarithm, which would be flat near 0.

    An interval that reaches 0 makes it unidentified: the rows then say nothing of an irreducible part.

    Args:
        name: how it is printed.
        high: upper bound, in the target's units.

    Example:
        >>> floor("E").kind, floor("E").low
        ('floor', 0.0)
    """
    return Parameter(name, 0.0, high, linear=True, kind="floor")


def exponent(name: str, low: float = 1e-3, high: float = 3.0, starts: Sequence[float] = ()) -> Parameter:
    """A positive exponent.

    Not linear, so the search starts from each of its ``starts``; an interval that contains 0 makes it unidentified.

    Args:
        name: how it is printed.
        low: lower bound.
        high: upper bound.
        starts: values that the search tries; none: 16 from 0.05 to 1.2.

    Example:
        >>> exponent("alpha").kind, len(exponent("alpha").starts)
        ('exponent', 16)
    """
    grid = tuple(starts) or tuple(float(v) for v in np.geomspace(0.05, 1.2, 16))
    return Parameter(name, low, high, grid, kind="exponent")


class Formula(Part):
    """How a loss, or another figure, follows from others: y = f(parameters, columns).

    A law of one's own states ``columns``, ``parameters`` and ``predict``; no more.

    Derive from ``isoflop.laws.Law``, which is this with ``fit``.

    ``predict(p, x)`` gets parameters of shape (k, 1), columns of shape (n,), and returns (k, n). Written with numpy's
    analytic functions it needs no gradient: the complex step gives one to machine precision. ``gradient`` may be
    overridden for speed. ``likelihood`` laws give ``nll(p, x, y)`` per row instead of a residual. ``defaults`` are the
    settings of its published protocol, where they differ from a summed log-Huber loss with delta 1e-3.

    Example:
        >>> class Halving(Formula):
        ...     columns = {"t": "time"}
        ...     parameters = (coefficient("A"), Parameter("half", 1e-3, 1e3, (1.0, 10.0), log=True))
        ...     def predict(self, p, x):
        ...         return p["A"] * 2.0 ** (-x["t"] / p["half"])
        >>> float(Halving().predict({"A": 8.0, "half": 10.0}, {"t": 20.0}))
        2.0
    """

    slot: ClassVar[str] = "law"
    columns: ClassVar[dict[str, str]] = {}
    target: ClassVar[str] = "loss"
    link: ClassVar[Literal["log", "identity"]] = "log"
    likelihood: ClassVar[bool] = False
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    defaults: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def predict(self, p: Mapping[str, Array], x: Columns) -> Array:
        """Predictions (k, n) in the target's units for k parameter sets, each (k, 1), at the columns ``x``, each (n,).

        Parameters may be complex (that is how gradients are taken): use numpy's analytic functions.
        """

    # ------------------------------------------------------------ what a law may say of itself

    def prepare(self, table: Table) -> Table:
        """The rows that are fitted, from a raw table: best of a sweep, one fit a group. Prepared ones stay."""
        return table

    def first_stage(self, table: Table) -> tuple[Formula, Table]:
        """The law with constants that another fit to the same table gives, and the rows that it then can be fitted to.

        Called once a fit, on a table with the law's names for columns, before ``prepare``. A law that returns another
        one is made again from the raw rows wherever the fit is repeated on part of them.
        """
        return self, table

    def compute(self, x: Columns) -> Array:
        """The axis along which the law is extrapolated, (n,): C, or 6 N D, or the first column."""
        if "C" in x:
            return np.asarray(x["C"], dtype=float)
        if "N" in x and "D" in x:
            return np.asarray(six_nd(np.asarray(x["N"], dtype=float), np.asarray(x["D"], dtype=float)))
        return np.asarray(x[next(iter(self.columns))], dtype=float)

    def positive(self) -> tuple[str, ...]:
        """Columns that must be > 0; by default all."""
        return tuple(self.columns)

    def varying(self) -> tuple[str, ...]:
        """Columns without whose variation the law cannot be fitted; by default all."""
        return tuple(self.columns)

    @property
    def held(self) -> dict[str, float]:
        """Parameters that are held at a value unless the user says otherwise."""
        return {}

    @property
    def shift(self) -> float:
        """What the log link takes off before the logarithm: an irreducible part that is known."""
        return 0.0

    def limits(self, x: Columns, y: Array) -> dict[str, tuple[float, float]]:
        """Bounds in natural units that depend on the data, by parameter."""
        return {}

    def ridge(self, rows: int) -> dict[str, float]:
        """Weights w of penalties w theta^2 / 2 that belong to the law's definition, by parameter."""
        return {}

    def start_values(self, x: Columns, y: Array) -> Array:
        """Where the search begins, (k, p) in natural units; entries of linear parameters are ignored."""
        grids = [q.starts if q.starts else (1.0,) for q in self.parameters]
        size = int(np.prod([len(grid) for grid in grids]))
        if size <= _MOST_STARTS:
            return np.asarray(list(itertools.product(*grids)), dtype=float)
        rng = Rng(0)("starts").at()
        return np.column_stack([rng.choice(grid, _MOST_STARTS) for grid in grids])

    def gradient(self, p: Params, x: Columns) -> tuple[Array, dict[str, Array]] | None:
        """(prediction, its derivative by each parameter), all (k, n) and natural; None: use the complex step."""
        return None

    def nll(self, p: Params, x: Columns, y: Array) -> Array:
        """Negative log-likelihood of each row, (k, n), of a ``likelihood`` law."""
        raise NotImplementedError

    # ------------------------------------------------------------ fitted space

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(q.name for q in self.parameters)

    def to_fitted(self, values: Array) -> Array:
        """Natural units (..., p) to fitted space: logarithms of ``log`` parameters, clipped to the bounds."""
        out = np.array(values, dtype=float)
        for j, q in enumerate(self.parameters):
            column = np.clip(out[..., j], q.low, q.high)
            out[..., j] = np.log(column) if q.log else column
        return out

    def to_natural(self, theta: Array) -> Array:
        """Fitted space (..., p) to natural units."""
        out = np.array(theta)
        for j, q in enumerate(self.parameters):
            if q.log:
                out[..., j] = np.exp(out[..., j])
        return out

    def bounds(self) -> tuple[Array, Array]:
        """Bounds in fitted space, two arrays (p,)."""
        low = [np.log(q.low) if q.log else q.low for q in self.parameters]
        high = [np.log(q.high) if q.log else q.high for q in self.parameters]
        return np.asarray(low), np.asarray(high)

    def named(self, theta: Array) -> dict[str, Array]:
        """Parameters by name, natural, (k, 1) each, from (k, p) fitted ones."""
        natural = self.to_natural(theta)
        return {name: natural[:, j, None] for j, name in enumerate(self.names)}

    def linked(self, y: Array, link: str) -> Array:
        """Target values in link space."""
        with np.errstate(all="ignore"):
            return np.log(y - self.shift) if link == "log" else np.asarray(y)

    def unlinked(self, f: Array, link: str) -> Array:
        """Values of link space in the target's units."""
        return np.exp(f) + self.shift if link == "log" else np.asarray(f)

    def value(self, theta: Array, x: Columns, link: str) -> Array:
        """Predictions (k, n) in link space; what is not defined there is NaN."""
        with np.errstate(all="ignore"):
            return self.linked(self.predict(self.named(theta), x), link)

    def jacobian(self, theta: Array, x: Columns, link: str, free: Array | None = None) -> tuple[Array, Array]:
        """(predictions (k, n), derivatives (k, f, n)) in link space by the ``free`` fitted parameters (all if None)."""
        free = np.arange(len(self.parameters)) if free is None else free
        with np.errstate(all="ignore"):
            known = self.gradient(self.named(theta), x)
            if known is not None:
                y, by = known
                natural = self.to_natural(theta)
                out = np.empty((len(theta), len(free), y.shape[-1]))
                for i, j in enumerate(free):
                    q = self.parameters[j]
                    np.multiply(by[q.name], natural[:, j, None] if q.log else 1.0, out=out[:, i])
                if link == "log":
                    out /= (y - self.shift)[:, None, :]
                return self.linked(y, link), out
            return self.value(theta, x, link), complex_step(lambda t: self.value(t, x, link), theta, free)

    def basis(self, theta: Array, x: Columns) -> tuple[Array, Array]:
        """(offset (k, n), basis (k, m, n)): the natural prediction is offset + sum_m linear_m basis_m."""
        linear = [j for j, q in enumerate(self.parameters) if q.linear]
        natural = self.to_natural(theta)
        natural[:, linear] = 0.0

        def at(values: Array) -> Array:
            return self.predict({name: values[:, j, None] for j, name in enumerate(self.names)}, x)

        rows = len(next(iter(x.values())))
        with np.errstate(all="ignore"):
            offset = np.broadcast_to(at(natural), (len(theta), rows))
            columns = []
            for j in linear:
                natural[:, j] = 1.0
                columns.append(np.broadcast_to(at(natural), (len(theta), rows)) - offset)
                natural[:, j] = 0.0
        return offset, np.stack(columns, axis=1) if columns else np.empty((len(theta), 0, rows))


def law_name(law: Formula) -> str:
    """Its registered name, or that of its class."""
    return type(law).name or type(law).__name__


def complex_step(function: Any, theta: Array, free: Array) -> Array:
    """Derivatives (k, f, n) of ``function``: (k, p) complex -> (k, n), by the ``free`` entries; exact to rounding."""
    out = []
    for j in free:
        moved = theta.astype(complex)
        moved[:, j] += 1j * _STEP
        out.append(np.imag(function(moved)) / _STEP)
    return np.stack(out, axis=1) if out else np.empty((len(theta), 0, 0))
