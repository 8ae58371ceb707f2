"""From a law and a table to a solved fit: settings, the problem that they make, its optimum and what to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from ..core.documents import Frozen
from ..core.errors import NumericsError, UsageError
from ..core.reading import complaint
from ..core.table import Table
from .arguments import check_named
from .checks import check_gradient, check_values
from .formula import Array, Formula, law_name
from .losses import ResidualLoss, loss_named
from .noise import covariances, dispersion
from .search import DOUBTFUL, Certificate, search
from .solve import FitProblem
from .tables import (
    as_table,
    attach,
    check_clusters,
    check_weights,
    cluster_numbers,
    columns_of,
    read_columns,
    rename,
)

_FEW = 10  # degrees of freedom: clusters' own variance is uncertain with fewer, which is said
_FAINT = 1e-12  # strength of priors before the noise is known: too weak to move the optimum that tells it


class Settings(Frozen):
    """How a law is fitted; stored with every fit so that it can be made again.

    Fields by name are given to ``law.fit``; one writes this class only to fit several laws or tables alike. What is
    left out is the law's own protocol (``law.defaults``).

    Example:
        >>> from isoflop.laws import Power
        >>> table = {"C": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "y": [1.0, 2.0, 4.0, 8.0, 99.0, 32.0]}
        >>> [round(Power().fit(table, Settings(loss=loss)).params["a"], 2) for loss in ("l2", "huber")]
        [1.23, 1.0]
    """

    loss: str = "huber"
    """huber, l2, l1, pinball, soft_pinball or asymmetric."""
    delta: float = 1e-3
    """Huber's corner, in link space: for log losses a relative error."""
    tau: float = 0.5
    """Quantile of the pinball losses."""
    kappa: float = 50.0
    """Sharpness of soft_pinball."""
    penalty: float = 10.0
    """asymmetric: weight of predictions above the observation, to fit the lower envelope of under-tuned runs."""
    link: Literal["log", "identity"] | None = None
    """Where residuals are taken; None: the law's own."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The law's column name -> the table's."""
    weights: str | None = None
    """Column of weights: how precise a row is relative to the others, 1 / sd^2 in any unit; 0 leaves it out."""
    clusters: str | None = None
    """Column that names the run a row belongs to; rows of a run are not independent."""
    fixed: dict[str, float] = Field(default_factory=dict)
    """Parameters held at a value, in natural units."""
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Bounds that replace the law's, in natural units."""
    priors: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Normal priors (mean, standard deviation) in fitted space: of the logarithm where the law fits that."""
    starts: int = Field(default=8, ge=1)
    """Starts that are refined, out of the best of the law's grid."""


@dataclass(frozen=True)
class Solved:
    """A fitted law as a value: what was minimised, and the optimum. ``isoflop.laws.Fit`` adds what is asked of it.

    Attributes:
        law: the law.
        settings: how it was fitted.
        table: the prepared rows: the law's columns, its target, and what clusters and weights name.
        theta: parameters (p,) in fitted space; ``params`` has them by name in natural units.
        objective: the minimised sum over rows.
        certificate: starts, share at the optimum, gradient, condition.
        warnings: everything a reader must know before using a constant.
        problem: what was minimised.
        loss: the loss of a residual.
        origin: of a fit whose law took constants from a first stage: the law before it, its table with the law's names
            for columns, and the settings that were asked for; what the whole fit is repeated from.

    Example:
        >>> from isoflop.laws import Power
        >>> solution = fit_law(Power(), {"C": [1.0, 2.0, 4.0], "y": [1.0, 2.1, 3.9]})
        >>> solution.rows, solution.degrees_of_freedom, solution.residuals.round(3).tolist()
        (3, 1, [0.02, -0.041, 0.02])
    """

    law: Formula
    settings: Settings
    table: Table
    theta: Array
    objective: float
    certificate: Certificate
    warnings: tuple[str, ...]
    problem: FitProblem = field(repr=False)
    loss: ResidualLoss = field(repr=False)
    origin: tuple[Formula, Table, Settings] | None = field(default=None, repr=False)

    @property
    def params(self) -> dict[str, float]:
        """Constants by name, in natural units."""
        return dict(zip(self.law.names, self.law.to_natural(self.theta).tolist(), strict=True))

    @property
    def converged(self) -> bool:
        return self.certificate.converged

    @property
    def rows(self) -> int:
        return self.table.rows

    @property
    def clusters(self) -> Array | None:
        """Number of the cluster of each row, (n,), or None."""
        return cluster_numbers(self.table, self.settings.clusters)

    @property
    def degrees_of_freedom(self) -> int:
        """Rows (or, where rows share clusters, clusters) beyond the fitted constants: what tells how noisy they are."""
        clusters = self.clusters
        units = self.rows if clusters is None else int(clusters.max()) + 1
        return units - len(self.problem.free)

    @property
    def residuals(self) -> Array:
        """(n,) prediction - observation in link space: relative errors where the link is log."""
        return np.asarray(self.problem.residuals(self.theta[None])[0])

    @property
    def r_squared(self) -> float:
        """Share of the target's variance that is explained, in natural units."""
        y = self.table.numbers(self.law.target)
        return float(1.0 - np.sum((self.predict(self.table) - y) ** 2) / np.sum((y - y.mean()) ** 2))

    def covariance(self) -> Array:
        """(p, p) in fitted space, zero at fixed and bounded parameters (see ``isoflop.laws.noise.covariances``)."""
        return np.asarray(covariances(self.problem, self.theta[None], self.loss, self.clusters)[0])

    def predict(self, table: Mapping[str, Any]) -> Array:
        """Predictions (n,) at a table's columns, in the target's units.

        Raises:
            DataError: a declared column is missing, or not finite and positive as the law wants it.
        """
        x = self.columns_of(table)
        rows = len(next(iter(x.values())))
        return np.asarray(np.broadcast_to(self.law.predict(self.law.named(self.theta[None]), x), (1, rows))[0])

    def columns_of(self, table: Mapping[str, Any]) -> dict[str, Array]:
        """The law's columns of a table, as float64, under the law's names."""
        known = as_table(table)
        renames = {new: old for new, old in self.settings.columns.items() if old in known}
        known = rename(known, renames) if renames else known
        return columns_of(self.law, read_columns(self.law, known, with_target=False))

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v:.6g}" for k, v in self.params.items())
        state = "" if self.converged else "NOT CONVERGED, do not use: "
        return f"Fit({state}{law_name(self.law)}: {values}; objective {self.objective:.7g}, {self.rows} rows)"


def fit_law(law: Formula, table: Mapping[str, Any], settings: Settings | None = None, **given: Any) -> Solved:
    """Fit a law.

    ``law.fit`` gives the same with everything that can be asked of it; this is for code on the floors below ``Fit``.

    Args:
        law: the law.
        table: any mapping of column name to array (rows,).
        settings: how to fit, or None.
        given: without ``settings``, its fields; ``weights`` and ``clusters`` may also be arrays (rows,).

    Raises:
        DataError: rows that no law can be fitted to.
        UsageError: a setting that does not exist or does not fit the law.
        NumericsError: the law is not defined anywhere near the data.

    Example:
        >>> from isoflop.laws import Power
        >>> fit_law(Power(), {"C": [1.0, 2.0, 4.0], "y": [1.0, 2.1, 3.9]}).params["a"].__round__(3)
        0.982
    """
    known, given = attach(table, given)
    asked = settings or _settings(law, given)
    raw = _checked(rename(known, asked.columns) if asked.columns else known, asked)
    final, rows = law.first_stage(raw)
    settings = asked.model_copy(update={"fixed": {**final.held, **asked.fixed}})
    prepared = _with_extras(final, final.prepare(rows), settings)
    prepared = read_columns(final, prepared, with_target=True)
    warnings = check_values(final, prepared, settings.link or final.link)
    for where in ("fixed", "bounds", "priors"):
        check_named(final, getattr(settings, where), where)
    extras = [name for name in (settings.weights, settings.clusters) if name]
    prepared = prepared.select([*final.columns, final.target, *extras, *(["C"] if "C" in prepared else [])])
    fit = solved(final, prepared, settings, warnings)
    return fit if final is law else replace(fit, origin=(law, raw, asked.model_copy(update={"columns": {}})))


def _settings(law: Formula, given: Mapping[str, Any]) -> Settings:
    """The law's defaults with what was given; UsageError for what is no setting, or not legal."""
    unknown = set(given) - set(Settings.model_fields)
    if unknown:
        raise UsageError(
            f"no fit setting is named {sorted(unknown)[0]!r}", fix=f"legal: {', '.join(Settings.model_fields)}"
        )
    try:
        return Settings(**_plain({**law.defaults, **given}))
    except (ValueError, TypeError) as error:
        what = complaint(error) if isinstance(error, ValidationError) else str(error)
        fix = "see isoflop.laws.Settings"
        raise UsageError(f"a fit setting is not legal ({what})", where="fit", fix=fix) from error


def _checked(table: Table, settings: Settings) -> Table:
    """The rows that have a weight, after a look at weights and clusters."""
    if settings.clusters:
        check_clusters(table, settings.clusters)
    if settings.weights is None:
        return table
    weights = check_weights(table, settings.weights)
    return table if weights.all() else table.where(weights > 0)


def _with_extras(law: Formula, table: Table, settings: Settings) -> Table:
    """The prepared table with weights as numbers and clusters as names; not all laws can keep them."""
    for option, name in (("weights", settings.weights), ("clusters", settings.clusters)):
        if name and name not in table:
            raise UsageError(
                f"{law_name(law)} makes one row of several: their {option} cannot be kept", where=option, fix="drop it"
            )
    if settings.weights:
        table = table.with_columns(**{settings.weights: table.numbers(settings.weights)})
    if settings.clusters and settings.clusters not in (*law.columns, law.target, "C", settings.weights):
        table = table.with_columns(**{settings.clusters: check_clusters(table, settings.clusters)})
    return table


def solved(law: Formula, table: Table, settings: Settings, warnings: list[str]) -> Solved:
    """Search, then the fit with all that must be said about it.

    Args:
        law: the law, after any first stage.
        table: prepared and checked rows.
        settings: how to fit; ``fixed`` holds what the law holds, too.
        warnings: what is already known to be said.
    """
    problem, loss = build_problem(law, table, settings)
    values = law.start_values(problem.x, problem.y)
    if not law.likelihood:
        check_gradient(law, problem.x, problem.link, values)
    theta, objective, certificate = search(problem, loss, values, refine=settings.starts)
    if not np.isfinite(objective):
        raise NumericsError(
            f"{law_name(law)} is not finite at any start", where="fit", fix="check units, bounds and fixed parameters"
        )
    if settings.priors or any(q.prior for q in law.parameters):
        problem = _with_prior_strength(problem, theta, loss)
        theta, objective, certificate = search(problem, loss, values, refine=settings.starts)
    every = [*warnings, *_optimum_warnings(certificate, settings), *_quantile_warnings(problem, theta, loss)]
    if not certificate.converged:
        every.insert(0, "the fit did NOT converge: its constants are not an optimum; do not use them")
    fit = Solved(law, settings, table, theta, objective, certificate, tuple(every), problem, loss)
    return replace(fit, warnings=(*every, *_few_clusters(fit)))


def _optimum_warnings(certificate: Certificate, settings: Settings) -> list[str]:
    warnings = []
    if certificate.share < DOUBTFUL:
        few = f"only {100 * certificate.share:.0f} % of {certificate.starts} starts reached this optimum"
        warnings.append(f"{few}: another may exist; compare with starts={4 * settings.starts}")
    if certificate.at_bounds:
        warnings.append(f"at a bound: {', '.join(certificate.at_bounds)}")
    return warnings


def _few_clusters(fit: Solved) -> list[str]:
    left, constants = fit.degrees_of_freedom, len(fit.problem.free)
    if not fit.settings.clusters or left >= _FEW:
        return []
    return [f"{left + constants} clusters for {constants} constants: {max(left, 0)} degrees of freedom are left"]


def _quantile_warnings(problem: FitProblem, theta: Array, loss: ResidualLoss) -> list[str]:
    """Of a quantile law: whether the share of rows below the curve is the one asked for."""
    if loss.quantile is None:
        return []
    below = float(np.average(problem.residuals(theta[None])[0] >= 0, weights=problem.weights))
    # two standard errors of a share, and the rows that the constants can lie on exactly
    far = 2.0 * np.sqrt(loss.quantile * (1 - loss.quantile) / len(problem.y)) + len(problem.free) / len(problem.y)
    if abs(below - loss.quantile) <= far:
        return []
    return [
        f"{100 * below:.2f} % of the rows lie below the curve, not {100 * loss.quantile:g} %: the form is wrong, or "
        'the rows are quieter than the rounded corner of the loss (loss="pinball" has none)'
    ]


def build_problem(law: Formula, table: Table, settings: Settings) -> tuple[FitProblem, ResidualLoss]:
    """The optimisation problem of a prepared, checked table."""
    link = settings.link or law.link
    x, y = columns_of(law, table), table.numbers(law.target)
    weights = relative(check_weights(table, settings.weights)) if settings.weights else np.ones(len(y))
    low, high = law.bounds()
    for name, (bottom, top) in {**law.limits(x, y), **settings.bounds}.items():
        j, q = law.names.index(name), law.parameters[law.names.index(name)]
        if not bottom < top or (q.log and bottom <= 0):
            raise UsageError(
                f"bounds ({bottom:g}, {top:g}) of {name} are not an interval", where="bounds", fix="low < high, > 0"
            )
        low[j], high[j] = (np.log(bottom), np.log(top)) if q.log else (bottom, top)
    for name, at in settings.fixed.items():
        j, q = law.names.index(name), law.parameters[law.names.index(name)]
        if q.log and at <= 0:
            raise UsageError(f"{name} = {at:g} is fixed, but must be > 0", where="fixed")
        low[j] = high[j] = np.log(at) if q.log else at
    free = np.asarray([j for j, name in enumerate(law.names) if name not in settings.fixed], dtype=int)
    strength, centre = np.zeros(len(low)), np.zeros(len(low))
    for name, weight in law.ridge(len(y)).items():
        strength[law.names.index(name)] = weight
    for j, q in enumerate(law.parameters):
        prior = settings.priors.get(q.name, q.prior)
        if prior is not None:
            centre[j], strength[j] = prior[0], _FAINT / prior[1] ** 2
    target = law.linked(y, link)
    loss = loss_named(
        settings.loss, delta=settings.delta, tau=settings.tau, kappa=settings.kappa, penalty=settings.penalty,
        scale=float(np.std(target)),
    )  # fmt: skip
    return FitProblem(law, x, y, weights, link, free, low, high, strength, centre), loss


def relative(weights: Array) -> Array:
    """Weights (rows,) of mean 1: their unit means nothing, and what is compared with their size need not know it."""
    largest = weights / weights.max()  # whose sum cannot overflow
    return np.asarray(largest / largest.mean())


def _with_prior_strength(problem: FitProblem, theta: Array, loss: ResidualLoss) -> FitProblem:
    """Priors count in units of the noise: strength = dispersion / sd^2, the dispersion estimated without them."""
    factor = dispersion(problem, theta, loss)
    return replace(problem, strength=np.where(problem.strength > 0, problem.strength * (factor / _FAINT), 0.0))


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """Numbers that strict validation would refuse only for their type."""
    out = dict(given)
    for name in ("delta", "tau", "kappa", "penalty"):
        if name in out and out[name] is not None:
            out[name] = float(out[name])
    if "fixed" in out:
        out["fixed"] = {k: float(v) for k, v in dict(out["fixed"]).items()}
    for name in ("bounds", "priors"):
        if name in out:
            out[name] = {k: (float(v[0]), float(v[1])) for k, v in dict(out[name]).items()}
    if "columns" in out:
        out["columns"] = dict(out["columns"])
    return out
