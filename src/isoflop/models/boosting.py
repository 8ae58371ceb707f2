"""Networks of one hidden layer for tables, trained a few units at a time by gradient boosting (GBNN).

Each step fits ``units_per_step`` new units to what the network so far gets wrong, its pseudo-residuals, and adds them;
what is there already stays as it is (Emami and Martinez-Munoz 2019, arXiv 1909.12098). So the units come in order: the
first ``n`` of them are the network that a shorter training would have given, and can be used without the rest.

    from isoflop.models.boosting import BoostedClassifier

    model = BoostedClassifier(units=100).fit(x, y)
    model.score(x_test, y_test), model.truncate(50).score(x_test, y_test)

The authors' code is followed but for three things: classes begin with their shares, not all alike; a step of regression
has the length that suits all rows best, not 1; and a step that would raise the training loss is shortened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor

from ..core.cost import Cost
from ..core.errors import DataError, UsageError
from ..core.rng import Rng
from ..ledger.formulas import linear

Floats = npt.NDArray[np.float64]
Activation = Literal["logistic", "tanh", "relu", "identity"]
_FORMS: dict[str, Any] = {"logistic": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}
_SLOPES: dict[str, Any] = {
    "logistic": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h * h,
    "relu": lambda h: (h > 0).to(h.dtype),
    "identity": torch.ones_like,
}
"""Derivative of each activation, of its value."""
_HALVINGS = 30
"""How often a step that would raise the training loss is halved before it is left out."""


class BoostedNetwork(ABC):
    """What regression and classification share; see ``BoostedRegressor`` and ``BoostedClassifier``.

    Inputs are taken as they are: bring their columns to one scale before.

    Args:
        units: of the hidden layer, a multiple of ``units_per_step``.
        units_per_step: units that are fitted together.
        learning_rate: factor on every step, in (0, 1].
        subsample: share of the rows that a step's units are fitted to, drawn without replacement, in (0, 1].
        activation: of the units: "logistic", "tanh", "relu" or "identity".
        alpha: weight of the squared weights in what a step's units minimise, divided by twice its rows.
        max_iter: iterations of L-BFGS a step at most.
        tol: a step ends where no component of its gradient is larger.
        random_state: seed of initial weights and draws; step t's depend on it and on t alone.

    Attributes:
        coefs_: of the network that the units make together: (columns, units) and (units, outputs).
        intercepts_: its biases, (units,) and (outputs,).
        losses_: mean training loss before the first step and behind each; it never rises.
        cost_: what fitting cost, as the ledger counts: products exactly.
    """

    coefs_: list[Floats]
    intercepts_: list[Floats]
    losses_: Floats
    cost_: Cost
    _starts: Floats
    """Biases of the outputs before the first step and behind each, (steps + 1, outputs)."""

    def __init__(
        self,
        units: int = 200,
        units_per_step: int = 1,
        *,
        learning_rate: float = 1.0,
        subsample: float = 0.5,
        activation: Activation = "logistic",
        alpha: float = 1e-4,
        max_iter: int = 200,
        tol: float = 1e-5,
        random_state: int = 0,
    ) -> None:
        self.units, self.units_per_step, self.learning_rate = units, units_per_step, learning_rate
        self.subsample, self.activation, self.alpha = subsample, activation, alpha
        self.max_iter, self.tol, self.random_state = max_iter, tol, random_state

    # what the loss says; outputs are (rows, outputs), targets of the same shape

    @abstractmethod
    def _encoded(self, y: Any) -> Tensor:
        """Targets (rows, outputs)."""

    @abstractmethod
    def _start(self, y: Tensor) -> Tensor:
        """The best constant output (outputs,)."""

    @abstractmethod
    def _loss(self, y: Tensor, output: Tensor) -> float:
        """Mean over the rows."""

    @abstractmethod
    def _residuals(self, y: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the loss' gradient in the outputs, and its second derivative there."""

    @abstractmethod
    def predict(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Predictions (rows,) for inputs (rows, columns); regression of several targets gives (rows, targets)."""

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Train all units, step by step.

        Args:
            x: inputs (rows, columns).
            y: targets (rows,), or (rows, targets) in regression.

        Raises:
            UsageError: an argument of the network is out of its range.
            DataError: inputs or targets are not finite, do not fit each other, or leave nothing to learn.
        """
        self._check()
        inputs, rows_of_targets = _table(x, "fit"), np.shape(y)[:1]
        if rows_of_targets not in ((), (len(inputs),)):
            raise DataError(f"{len(inputs)} rows of inputs, but {rows_of_targets[0]} targets", where="fit")
        targets = self._encoded(y)
        rng, output = Rng(self.random_state), self._start(targets).expand_as(targets).clone()
        bias, kept = output[0].clone(), list[tuple[Tensor, Tensor, Tensor]]()
        starts, losses, self.cost_ = [bias.clone()], [self._loss(targets, output)], Cost()
        for step in range(self.units // self.units_per_step):
            residuals, curvature = self._residuals(targets, output)
            rows = self._rows(len(inputs), rng("rows").at(step))
            (w, b, v, c), spent = self._fitted(inputs[rows], residuals[rows], rng("init").at(step))
            self.cost_ += spent
            new = self._hidden(inputs, w, b) @ v + c
            self.cost_ += linear(len(inputs), w.shape[0], w.shape[1], itemsize=8).forward
            self.cost_ += linear(len(inputs), v.shape[0], v.shape[1], itemsize=8).forward
            length = self._length(targets, output, new, residuals, curvature) * self.learning_rate
            output, bias = output + length * new, bias + length * c
            kept.append((w, b, length * v))
            starts.append(bias.clone())
            losses.append(self._loss(targets, output))
        ws, bs, vs = zip(*kept, strict=True)
        self.coefs_ = [torch.cat(ws, 1).numpy(), torch.cat(vs, 0).numpy()]
        self.intercepts_ = [torch.cat(bs).numpy(), bias.numpy()]
        self.losses_, self._starts = np.array(losses), torch.stack(starts).numpy()
        return self

    def decision_function(self, x: npt.ArrayLike) -> Floats:
        """The network's outputs (rows, outputs) for inputs (rows, columns)."""
        self._check_fitted()
        inputs = _table(x, "predict")
        if inputs.shape[1] != len(self.coefs_[0]):
            what = f"{inputs.shape[1]} columns, but the network was fitted to {len(self.coefs_[0])}"
            raise DataError(what, where="predict")
        (w, v), (b, c) = map(torch.from_numpy, self.coefs_), map(torch.from_numpy, self.intercepts_)
        found: Floats = (self._hidden(inputs, w, b) @ v + c).numpy()
        return found

    def truncate(self, units: int) -> Self:
        """The network of the first ``units`` units: exactly what fitting so few would have given.

        Args:
            units: a multiple of ``units_per_step``, at most as many as there are; 0 leaves the best constant.

        Raises:
            UsageError: no such number of units was reached by whole steps.
        """
        self._check_fitted()
        if not 0 <= units <= self.units or units % self.units_per_step:
            nearest = min(max(round(units / self.units_per_step), 0), self.units // self.units_per_step)
            what = f"{units} units are no whole number of steps of {self.units_per_step} among the {self.units} of it"
            raise UsageError(what, where="truncate", fix=f"use {nearest * self.units_per_step}")
        steps, shorter = units // self.units_per_step, copy(self)
        shorter.units = units
        shorter.coefs_ = [self.coefs_[0][:, :units], self.coefs_[1][:units]]
        shorter.intercepts_ = [self.intercepts_[0][:units], self._starts[steps]]
        shorter.losses_, shorter._starts = self.losses_[: steps + 1], self._starts[: steps + 1]
        return shorter

    def cost_of(self, rows: int) -> Cost:
        """What predicting so many rows costs, as the ledger counts."""
        self._check_fitted()
        (columns, units), outputs = self.coefs_[0].shape, self.coefs_[1].shape[1]
        return linear(rows, columns, units, itemsize=8).forward + linear(rows, units, outputs, itemsize=8).forward

    # one step

    def _rows(self, count: int, draw: np.random.Generator) -> Tensor:
        if self.subsample == 1:
            return torch.arange(count)
        return torch.from_numpy(draw.choice(count, max(1, int(self.subsample * count)), replace=False))

    def _hidden(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found: Tensor = _FORMS[self.activation](x @ w + b)
        return found

    def _fitted(
        self, x: Tensor, wanted: Tensor, draw: np.random.Generator
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Cost]:
        """Weights and biases of new units and of the outputs, nearest to ``wanted`` in the mean square; their cost."""
        sizes = [(x.shape[1], self.units_per_step), (self.units_per_step, wanted.shape[1])]
        begins = []
        for ins, outs in sizes:  # Glorot's range, as its authors give it for each activation
            bound = ((2 if self.activation == "logistic" else 6) / (ins + outs)) ** 0.5
            begins += [draw.uniform(-bound, bound, (ins, outs)), draw.uniform(-bound, bound, (1, outs))]
        shapes = [each.shape for each in begins]
        places = np.cumsum([0, *(each.size for each in begins)])

        def apart(flat: Floats) -> list[Tensor]:
            taken = zip(shapes, places[:-1], places[1:], strict=True)
            return [torch.from_numpy(flat[a:b].reshape(shape)) for shape, a, b in taken]

        def value(flat: Floats) -> tuple[float, Floats]:
            w, b, v, c = apart(flat)
            hidden = self._hidden(x, w, b)
            error = (hidden @ v + c - wanted) / len(x)
            found = error.square().sum() * len(x) / 2 + self.alpha / (2 * len(x)) * (
                w.square().sum() + v.square().sum()
            )
            back = (error @ v.T) * _SLOPES[self.activation](hidden)
            slopes = [
                x.T @ back + self.alpha / len(x) * w,
                back.sum(0, keepdim=True),
                hidden.T @ error + self.alpha / len(x) * v,
                error.sum(0, keepdim=True),
            ]
            return float(found), torch.cat([slope.flatten() for slope in slopes]).numpy()

        start = np.concatenate([each.ravel() for each in begins])
        options = {"maxiter": self.max_iter, "gtol": self.tol, "ftol": 0.0}
        solved = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
        (ins, units), (_, outs) = sizes
        once = linear(len(x), ins, units, itemsize=8, input_gradient=False) + linear(len(x), units, outs, itemsize=8)
        w, b, v, c = apart(np.array(solved.x))
        return (w, b[0], v, c[0]), once.total * int(solved.nfev)

    def _length(self, y: Tensor, output: Tensor, new: Tensor, residuals: Tensor, curvature: Tensor) -> float:
        """Newton's step along ``new``, halved until the training loss does not rise; 0 if nothing helps."""
        below = float((new * new * curvature).sum())
        length = float((new * residuals).sum()) / below if below > 0 else 0.0
        before = self._loss(y, output)
        for _ in range(_HALVINGS):
            if self._loss(y, output + length * new) <= before:
                return length
            length /= 2
        return 0.0

    def _check(self) -> None:
        problems = {
            "units_per_step": self.units_per_step < 1 and "must be 1 at least",
            "units": (self.units < 1 or self.units % max(1, self.units_per_step) != 0)
            and f"must be a multiple of units_per_step = {self.units_per_step}, and 1 at least",
            "learning_rate": not 0 < self.learning_rate <= 1 and "must lie in (0, 1]",
            "subsample": not 0 < self.subsample <= 1 and "must lie in (0, 1]",
            "activation": self.activation not in _FORMS and f"must be one of {', '.join(_FORMS)}",
            "alpha": not 0 <= self.alpha < np.inf and "must be 0 or more",
            "max_iter": self.max_iter < 1 and "must be 1 at least",
        }
        for name, problem in problems.items():
            if problem:
                raise UsageError(f"{getattr(self, name)!r} {problem}", where=name)

    def _check_fitted(self) -> None:
        if not hasattr(self, "coefs_"):
            raise UsageError("has learned nothing yet", where=type(self).__name__, fix="call fit(x, y) first")


class BoostedRegressor(BoostedNetwork):
    """Regression by a network that is boosted unit by unit, for squares of errors.

    Use it where a table is small, and how many units are worth their cost is to be decided after training.

    Example:
        >>> x = np.linspace(-2, 2, 80)[:, None]
        >>> model = BoostedRegressor(units=20).fit(x, np.sin(2 * x[:, 0]))
        >>> [round(model.truncate(units).score(x, np.sin(2 * x[:, 0])), 2) for units in (1, 5, 20)]
        [0.37, 0.92, 0.98]
    """

    def _encoded(self, y: Any) -> Tensor:
        targets = _numbers(y, "targets", "fit")
        if targets.ndim not in (1, 2):
            raise DataError(f"targets have {targets.ndim} dimensions", where="fit", fix="use one, or one a column")
        self._flat = targets.ndim == 1
        return torch.from_numpy(targets[:, None] if self._flat else targets)

    def _start(self, y: Tensor) -> Tensor:
        return y.mean(0)

    def _loss(self, y: Tensor, output: Tensor) -> float:
        return float((y - output).square().sum(1).mean() / 2)

    def _residuals(self, y: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        return y - output, torch.ones_like(y)

    def predict(self, x: npt.ArrayLike) -> Floats:
        found = self.decision_function(x)
        return found[:, 0] if self._flat else found

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """Share of the targets' variance that predictions explain (R^2), over all targets together."""
        found = self.predict(x)
        wanted = _of_shape(_numbers(y, "targets", "score"), found.shape)
        return float(1 - np.square(wanted - found).sum() / np.square(wanted - wanted.mean(0)).sum())


class BoostedClassifier(BoostedNetwork):
    """Classification by a network that is boosted unit by unit, for the cross-entropy.

    Two classes have one output F, with p = 1 / (1 + exp(-2 F)); more have one each, and a softmax.

    Attributes:
        classes_: the labels, ascending.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((300, 2))
        >>> y = np.where(x[:, 0] * x[:, 1] > 0, "same", "apart")
        >>> model = BoostedClassifier(units=30).fit(x, y)
        >>> model.classes_.tolist(), model.score(x, y) > 0.9 > model.truncate(2).score(x, y)
        (['apart', 'same'], True)
    """

    classes_: npt.NDArray[Any]

    def _encoded(self, y: Any) -> Tensor:
        classes, places = np.unique(np.asarray(y), return_inverse=True)
        if len(classes) < 2:
            raise DataError("all targets are of one class", where="fit", fix="give rows of two at least")
        if np.ndim(y) != 1:
            raise DataError(f"labels have {np.ndim(y)} dimensions", where="fit", fix="give one a row")
        self.classes_ = classes
        if len(classes) == 2:
            return torch.from_numpy(2.0 * places[:, None] - 1)
        return torch.from_numpy(np.eye(len(classes))[places])

    def _start(self, y: Tensor) -> Tensor:
        return torch.atanh(y.mean(0)) if y.shape[1] == 1 else y.mean(0).log()

    def _loss(self, y: Tensor, output: Tensor) -> float:
        if y.shape[1] == 1:
            return float(torch.nn.functional.softplus(-2 * y * output).mean())
        return float((output.logsumexp(1) - (y * output).sum(1)).mean())

    def _residuals(self, y: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        if y.shape[1] == 1:
            residuals = 2 * y * torch.sigmoid(-2 * y * output)
            return residuals, residuals.abs() * (2 - residuals.abs())
        p = torch.softmax(output, 1)
        return y - p, p * (1 - p)

    def predict_proba(self, x: npt.ArrayLike) -> Floats:
        """Probabilities (rows, classes) for inputs (rows, columns)."""
        output = torch.from_numpy(self.decision_function(x))
        if output.shape[1] == 1:
            output = torch.cat([-output, output], 1)
        found: Floats = torch.softmax(output, 1).numpy()
        return found

    def predict(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = self.classes_[self.predict_proba(x).argmax(1)]
        return found

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """Share of the rows whose class is the likeliest one."""
        found = self.predict(x)
        return float((found == _of_shape(np.asarray(y), found.shape)).mean())


def _numbers(values: Any, what: str, where: str) -> Floats:
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what} are no numbers, or their rows differ in length", where=where) from None
    if not found.size or not np.isfinite(found).all():
        raise DataError(
            f"{what} are empty, or not all of them are finite numbers", where=where, fix="leave such rows out"
        )
    return found


def _of_shape(targets: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Targets as they are, if they have the predictions' shape: others would be compared crosswise."""
    if targets.shape != shape:
        raise DataError(f"targets of the shape {targets.shape} for predictions of the shape {shape}", where="score")
    return targets


def _table(x: Any, where: str) -> Tensor:
    """Inputs (rows, columns)."""
    found = _numbers(x, "inputs", where)
    if found.ndim != 2:
        raise DataError(f"inputs have {found.ndim} dimensions, not rows and columns", where=where)
    return torch.from_numpy(np.ascontiguousarray(found))
