"""Eigenbases of Gram matrices that follow slowly: what SOAP and Shampoo keep for each dimension of a parameter.

The null space of a Gram matrix has no eigenbasis of its own: what a LAPACK returns there is rounding noise, and Adam
depends on it. Here it is defined, so that runs reproduce across machines: at first by a fixed diagonal form compressed
to the null space, later by keeping the old directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..core.cost import ZERO, Cost
from ..ledger.formulas import eigh, matmul

NULL = 4.0
"""Eigenvalues below NULL times machine epsilon times the largest count as null: rounding leaves so much of zero."""

BLOCKS = 4
"""Rows of a large Gram matrix are updated in this many blocks, each from its diagonal on: 5/8 of the work."""


SECONDS = 6e-10
"""Seconds of an eigendecomposition on a CPU core, by the cube of the side."""
LONG = 4.0
"""Seconds from which on a user is warned of them."""


def warn_of_sides(rule: str, group: Mapping[str, Any], sides: Iterable[int], argument: str, when: str) -> None:
    """Warn if the eigenbases of a group's matrices take long on a CPU, and name the argument that leaves them out.

    Args:
        rule: its class's name.
        group: the parameter group.
        sides: of all matrices that are decomposed at once.
        argument: the largest side that has a basis.
        when: how often they are computed, in words.
    """
    found = list(sides)
    seconds = SECONDS * sum(n**3 for n in found)
    if seconds > LONG and all(p.device.type == "cpu" for p in group["params"]):
        warnings.warn(
            f"{rule} finds eigenbases of sides up to {max(found):,} {when}, about {seconds:.0f} s on one CPU core; "
            f"{argument}={max(found) // 2} leaves the larger ones alone",
            stacklevel=2,
        )


def merged_shape(shape: Sequence[int], largest: int) -> list[int]:
    """Neighbouring dimensions multiplied, from the left, while the product stays <= ``largest``."""
    merged: list[int] = []
    product = 1
    for n in shape:
        if product * n <= largest:
            product *= n
        elif product > 1:
            merged.append(product)
            product = n
        else:
            merged.append(n)
            product = 1
    return [*merged, product] if product > 1 or not merged else merged


def unfold(x: Tensor, d: int) -> Tensor:
    """(n_d, everything else): the matrix whose rows run along dimension ``d``."""
    if x.ndim == 2:
        return x if d == 0 else x.T
    return x.movedim(d, 0).reshape(x.shape[d], -1)


def row_blocks(n: int) -> Iterator[tuple[int, int]]:
    """(first, behind last) row of the blocks in which a Gram matrix of ``n`` rows is updated."""
    size = n if n < 256 else -(-n // BLOCKS)
    return ((start, min(start + size, n)) for start in range(0, n, size))


def update_gram(gram: Tensor, x: Tensor, keep: float, add: float) -> None:
    """gram <- keep gram + add x x'; only the blocks on and above the diagonal (``mirror`` fills the others)."""
    for start, stop in row_blocks(len(gram)):
        gram[start:stop, start:].addmm_(x[start:stop], x[start:].T, beta=keep, alpha=add)


def gram_cost(n: int, columns: int) -> Cost:
    """Cost of ``update_gram`` with x (n, columns)."""
    return sum((matmul(stop - start, columns, n - start) for start, stop in row_blocks(n)), ZERO)


def mirror(gram: Tensor) -> None:
    """Copy the blocks above the diagonal below it."""
    for start, stop in row_blocks(len(gram)):
        gram[stop:, start:stop].copy_(gram[start:stop, stop:].T)


def eigensystem(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), ascending, and eigenvectors (n, n) as columns of a symmetric matrix.

    LAPACK's single precision sometimes fails on matrices with many equal eigenvalues, as Gram matrices of embeddings
    have: it does not converge, or returns NaN. Then double precision does it; no formula counts that attempt.
    """
    with suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(gram)
        if bool(torch.isfinite(vectors).all()):
            return values, vectors
    values, vectors = torch.linalg.eigh(_doubled(gram))
    return values.to(gram), vectors.to(gram)


def _doubled(x: Tensor) -> Tensor:
    """In double precision; on the CPU where the device (mps) has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def first_basis(gram: Tensor) -> Tensor:
    """Eigenvectors as columns, eigenvalues descending; then the null space, if any: the eigenvectors of
    diag(1 + 1/n, ..., 2) compressed to it, largest first, the same on every machine up to sign.

    The work depends neither on the rank nor, being done in double precision, on a second attempt, so that it can be
    counted beforehand (``first_basis_cost``).
    """
    given, gram = gram, _doubled(gram)
    n, kind = len(gram), {"dtype": gram.dtype, "device": gram.device}
    values, vectors = eigensystem(gram)
    known = values > NULL * torch.finfo(given.dtype).eps * values[-1]
    basis: Tensor = vectors.flip(1).contiguous()
    kept = vectors * known
    projector = torch.eye(n, **kind) - kept @ kept.T  # type: ignore[call-overload]
    weights = 1 + torch.arange(1, n + 1, **kind) / n  # type: ignore[call-overload]
    others = eigensystem(projector @ (weights[:, None] * projector))[1].flip(1)
    rank = int(known.sum())
    basis[:, rank:] = others[:, : n - rank]
    return basis.to(given)


def first_basis_cost(n: int) -> Cost:
    """Cost of ``first_basis``."""
    return (eigh(n) + matmul(n, n, n)) * 2


def follow(gram: Tensor, basis: Tensor, orthonormal: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """One power step: (new basis, order), the old columns first sorted by ``order`` (estimates descending).

    The product gram @ basis serves the estimate and the step. Columns whose estimate counts as null keep their old
    direction, orthogonal to the others.
    """
    product = gram @ basis
    estimates = torch.linalg.vecdot(basis, product, dim=0)
    order = torch.argsort(estimates, descending=True, stable=True)
    product = product[:, order]
    floor = NULL * torch.finfo(gram.dtype).eps * estimates[order[0]]
    null = estimates[order] <= floor
    if bool(null.any()):
        product[:, null] = basis[:, order[null]]
    return orthonormal(product), order


def by_qr(y: Tensor) -> Tensor:
    """Orthonormal columns with the spans of y's leading columns, by Householder reflectors."""
    q: Tensor = torch.linalg.qr(y)[0]
    return q


def by_cholesky(y: Tensor) -> Tensor:
    """As ``by_qr``, by the Cholesky factor of the normalised columns' Gram matrix: products in place of reflectors.

    The error is about machine epsilon times the squared condition number of the normalised columns, which are nearly
    orthogonal when the basis moves slowly; if it exceeds sqrt(epsilon) / 8, or y is singular, ``by_qr`` is used.
    """
    norms = torch.linalg.vector_norm(y, dim=0, keepdim=True)
    if not bool(norms.min() > 0):  # squares below the smallest number: reflectors scale what they are given
        return by_qr(y)
    y = y / norms
    gram = y.new_empty(y.shape[1], y.shape[1])
    update_gram(gram, y.T, 0.0, 1.0)
    factor, failed = torch.linalg.cholesky_ex(gram, upper=True)  # reads nothing below the diagonal
    worst = factor.diagonal().min() ** -2 * torch.finfo(y.dtype).eps  # the squared condition number is at least that
    # an eighth of sqrt(epsilon): what is left of orthogonality then is still half the digits
    if bool(failed) or not bool(worst < torch.finfo(y.dtype).eps ** 0.5 / 8):
        return by_qr(y)
    q: Tensor = torch.linalg.solve_triangular(factor, y, upper=True, left=False)
    return q


def rotate(x: Tensor, bases: Sequence[Tensor | None], back: bool = False) -> Tensor:
    """``x`` in the bases' coordinates along every dimension that has one, or back from them."""
    if x.ndim == 2:
        left, right = bases
        if left is not None:
            x = (left if back else left.T) @ x
        if right is not None:
            x = x @ (right.T if back else right)
        return x
    for d, q in enumerate(bases):
        if q is not None:
            x = torch.tensordot(x, q, dims=([d], [1 if back else 0])).movedim(-1, d)
    return x
