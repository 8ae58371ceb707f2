"""Ratios over held-out text, with their standard errors: within a domain, and over domains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ..core.contracts import HeldOut, Measurement
from ..core.cost import Cost
from ..core.errors import DataError
from ..core.rng import Rng


def over_domains(data: Mapping[str, HeldOut], rng: Rng, measure: Callable[[HeldOut, Rng], Measurement]) -> Measurement:
    """Measure every domain, each with random numbers of its own; their mean, weighted by ``n``.

    Domains are independent, so the errors of the mean's terms add in quadrature. It is a bound if any of them is.

    Args:
        data: held-out text by domain.
        rng: each domain draws from its own stream of it.
        measure: measures one domain.

    Raises:
        DataError: there is no held-out text.

    Example:
        >>> def measure(held_out, rng):
        ...     return Measurement(value=held_out, stderr=0.1, n=100)
        >>> over_domains({"prose": 2.0, "code": 1.0}, Rng(0), measure).value
        1.5
    """
    domains = {name: measure(heldout, rng(str(number))) for number, (name, heldout) in enumerate(data.items())}
    if not domains:
        raise DataError("holds no held-out text", where="source", fix="add documents or raise its held-out share")
    total = sum(domain.n for domain in domains.values())
    errors = [domain.stderr * domain.n for domain in domains.values() if domain.stderr is not None]
    return Measurement(
        value=sum(domain.value * domain.n for domain in domains.values()) / total,
        stderr=math.hypot(*errors) / total if len(errors) == len(domains) else None,
        n=total,
        bound=any(domain.bound for domain in domains.values()),
        domains=domains,
        cost=sum((domain.cost for domain in domains.values()), Cost()),
        how=next(iter(domains.values())).how,
    )


def ratio_error(numerators: Sequence[float], denominators: Sequence[float], total: float | None = None) -> float | None:
    """Standard error of sum(numerators) / sum(denominators) over independent pieces of text.

    That of a ratio estimate: sqrt(n / (n - 1) sum_i (a_i - r b_i)^2) / sum b, r = sum a / sum b. It is about the text's
    variety, not about training seeds.

    Args:
        numerators: (n,) one a piece, e.g. its bits.
        denominators: (n,) one a piece, e.g. its bytes.
        total: the denominator that the ratio was taken with, where that differs from the pieces' sum.

    Returns:
        None of fewer than two pieces.

    Example:
        >>> round(ratio_error([10.0, 12.0, 11.0], [5.0, 5.0, 6.0]), 3), ratio_error([10.0], [5.0])
        (0.168, None)
    """
    n, whole = len(numerators), sum(denominators)
    if n < 2:
        return None
    ratio = math.fsum(numerators) / whole
    spread = math.fsum((a - ratio * b) ** 2 for a, b in zip(numerators, denominators, strict=True))
    return math.sqrt(spread * n / (n - 1)) / (whole if total is None else total)
