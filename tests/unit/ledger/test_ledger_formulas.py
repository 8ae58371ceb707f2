"""Formulas against brute force: the multiply-adds of naive loops, counted one by one."""

from __future__ import annotations

import cmath
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.cost import Cost
from isoflop.ledger import formulas as f

SIZES = st.integers(1, 5)


class Counted(float):
    """A number that counts the additions, multiplications and divisions made with it."""

    operations = 0

    def _made(self, value: float) -> Counted:
        Counted.operations += 1
        return Counted(value)

    def __add__(self, other):
        return self._made(float(self) + float(other))

    def __sub__(self, other):
        return self._made(float(self) - float(other))

    def __mul__(self, other):
        return self._made(float(self) * float(other))

    def __truediv__(self, other):
        return self._made(float(self) / float(other))


@pytest.fixture(autouse=True)
def _fresh():
    Counted.operations = 0


def counted(function, *args) -> int:
    before = Counted.operations
    function(*args)
    return Counted.operations - before


def matrix(m: int, n: int) -> list[list[Counted]]:
    return [[Counted(1 + (i * n + j) % 7 + (i == j) * 9) for j in range(n)] for i in range(m)]


def product(a, b):
    out = [[Counted(0) for _ in b[0]] for _ in a]
    for i, j, k in itertools.product(range(len(a)), range(len(b[0])), range(len(b))):
        out[i][j] = out[i][j] + a[i][k] * b[k][j]
    return out


def transpose(a):
    return [list(row) for row in zip(*a, strict=True)]


@given(SIZES, SIZES, SIZES, SIZES)
def test_matmul(m, k, n, batch):
    flops = sum(counted(product, matrix(m, k), matrix(k, n)) for _ in range(batch))
    assert f.matmul(m, k, n, batch) == Cost(flops, flops, 0, 4 * batch * (m * k + k * n + m * n))


@given(SIZES, SIZES, SIZES)
def test_linear(tokens, d_in, d_out):
    x, w, g = matrix(tokens, d_in), matrix(d_out, d_in), matrix(tokens, d_out)
    forward = counted(product, x, transpose(w))
    weight, inputs = counted(product, transpose(g), x), counted(product, g, w)
    work = f.linear(tokens, d_in, d_out)
    assert (work.forward.flops, work.backward.flops, work.recompute.flops) == (forward, weight + inputs, 0)
    assert f.linear(tokens, d_in, d_out, input_gradient=False).backward.executed == weight


@pytest.mark.parametrize(("groups", "kernel"), [(1, (3,)), (2, (2,)), (1, (2, 3)), (2, (1, 2))])
def test_convolution(groups, kernel):
    batch, d_in, d_out = 2, 4, 2
    output = tuple(4 - k + 1 for k in kernel)

    def loops():
        total = Counted(0)
        for _ in itertools.product(range(batch), range(d_out), *map(range, output)):
            for _ in itertools.product(range(d_in // groups), *map(range, kernel)):
                total = total + Counted(1) * 2

    forward = counted(loops)
    work = f.convolution(batch, d_in, d_out, kernel, output, groups)
    assert (work.forward.flops, work.backward.flops) == (forward, 2 * forward)


def attend(q, k, v, allowed):
    """Scores and mixing over the allowed pairs only; the softmax itself is not matmul-class."""
    for i, row in enumerate(q):
        out = [Counted(0)] * len(v[0])
        for j, key in enumerate(k):
            if (i, j) in allowed:
                score = Counted(0)
                for a, b in zip(row, key, strict=True):
                    score = score + a * b
                out = [o + score * x for o, x in zip(out, v[j], strict=True)]


@given(st.integers(1, 6), st.integers(0, 4), st.integers(1, 4))
def test_attention(queries, past, head_dim):
    keys = queries + past
    allowed = {(i, j) for i in range(queries) for j in range(keys) if j <= i + past}
    assert f.causal_pairs(queries, keys) == len(allowed)
    q, k, v = matrix(queries, head_dim), matrix(keys, head_dim), matrix(keys, head_dim)
    exact = counted(attend, q, k, v, allowed)
    full = counted(attend, q, k, v, {(i, j) for i in range(queries) for j in range(keys)})
    work = f.attention(2, 3, head_dim, queries, keys)
    assert (work.forward.flops, work.forward.executed) == (6 * exact, 6 * full)
    assert (work.backward.flops, work.backward.executed) == (12 * exact, 12 * full)
    assert work.recompute == Cost()


def test_attention_recomputes_scores_in_hardware_only():
    work = f.attention(2, 3, 8, 16, executed_pairs=200, recompute=True)
    assert work.recompute.flops == 0
    assert work.recompute.executed == 2 * 2 * 3 * 200 * 8 == work.forward.executed // 2
    assert work.forward.flops == 4 * 2 * 3 * 8 * 136
    assert work.total.flops == f.attention(2, 3, 8, 16).total.flops
    assert work.forward.moved < f.attention(2, 3, 8, 16).forward.moved  # no scores in memory


@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (511, 511), (512, 512), (513, 513), (1100, 1100), (600, 300), (3, 900)]
)
def test_flash_pairs(queries, keys):
    visited = [min(512 * (i // 512 + 1), keys) for i in range(queries)]
    assert f.flash_cpu_pairs(queries, keys) == sum(visited)
    assert f.flash_cpu_pairs(queries, keys, causal=False) == queries * keys
    allowed = sum(min(i + 1, keys) for i in range(queries))
    assert allowed == f.flash_cuda_pairs(queries, keys) <= f.flash_cpu_pairs(queries, keys) <= queries * keys
    assert f.flash_cpu_pairs(queries) == f.flash_cpu_pairs(queries, queries)


def test_more_queries_than_keys_are_refused():
    with pytest.raises(ValueError, match="5 queries"):
        f.causal_pairs(5, 4)


# ---------------------------------------------------------------- factorizations


@pytest.mark.parametrize(("m", "n"), [(2, 5), (5, 2), (3, 3)])
def test_newton_schulz(m, n):
    def iterate():
        x = matrix(m, n) if m <= n else transpose(matrix(m, n))
        for _ in range(3):
            gram = product(x, transpose(x))
            product(gram, gram)
            product(gram, x)

    assert f.newton_schulz(m, n, steps=3).executed == counted(iterate)
    assert f.newton_schulz(m, n, steps=3, batch=4) == 4 * f.newton_schulz(n, m, steps=3)


def back_substitute(u, b):
    for column in transpose(b):
        x = list(column)
        for i in reversed(range(len(u))):
            for j in range(i + 1, len(u)):
                x[i] = x[i] - u[i][j] * x[j]
            x[i] = x[i] / u[i][i]


@given(SIZES, SIZES)
def test_solve_triangular_is_exact(n, columns):
    assert f.solve_triangular(n, columns).executed == counted(back_substitute, matrix(n, n), matrix(n, columns))


def eliminate(a):
    for k in range(min(len(a), len(a[0]))):
        for i in range(k + 1, len(a)):
            a[i][k] = a[i][k] / a[k][k]
            for j in range(k + 1, len(a[0])):
                a[i][j] = a[i][j] - a[i][k] * a[k][j]


def factor_cholesky(a):
    for k in range(len(a)):
        for i in range(k + 1, len(a)):
            a[i][k] = a[i][k] / a[k][k]
        for j in range(k + 1, len(a)):
            for i in range(j, len(a)):
                a[i][j] = a[i][j] - a[i][k] * a[j][k]


def reflect(v, a, first_row, first_column):
    """a <- (I - 2 v v') a from a row and a column on: 4 operations a number."""
    for j in range(first_column, len(a[0])):
        dot = Counted(0)
        for i in range(first_row, len(a)):
            dot = dot + v[i - first_row] * a[i][j]
        for i in range(first_row, len(a)):
            a[i][j] = a[i][j] - v[i - first_row] * dot


def triangularise(a):
    for k in range(min(len(a), len(a[0]))):
        reflect([Counted(0.1)] * (len(a) - k), a, k, k)


def form_q(m, columns, k):
    q = matrix(m, columns)
    for step in reversed(range(k)):
        reflect([Counted(0.1)] * (m - step), q, step, step)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("name", ["lu", "cholesky", "geqrf", "orgqr", "ormqr"])
def test_nominal_counts_are_the_leading_terms(name, shape):
    def error(n):
        m, k = n * shape[0], n * shape[1]
        match name:
            case "lu":
                exact, nominal = counted(eliminate, matrix(m, k)), f.lu(m, k)
            case "cholesky":
                exact, nominal = counted(factor_cholesky, matrix(m, m)), f.cholesky(m)
            case "geqrf":
                exact, nominal = counted(triangularise, matrix(m, k)), f.geqrf(m, k)
            case "orgqr":
                m, k = max(m, k), min(m, k)
                exact, nominal = counted(form_q, m, k, k), f.orgqr(m, k, k)
            case _:  # all reflectors meet all columns
                reflectors, columns = min(m, k), 3
                exact = sum(4 * (m - step) * columns for step in range(reflectors))
                nominal = f.ormqr(m, columns, reflectors)
        return abs(nominal.executed / exact - 1)

    assert error(16) < 0.15
    assert error(16) < error(4)


def test_composed_counts():
    n, m = 6, 9
    assert f.qr(n, n).executed == 2 * (4 * n**3 // 3)
    assert f.qr(m, n) == f.geqrf(m, n) + f.orgqr(m, n, n)
    assert f.qr(m, n, "complete").executed > f.qr(m, n).executed > f.qr(m, n, "r").executed
    assert f.solve(n, 2) == f.lu(n, n) + f.solve_triangular(n, 2) * 2
    assert f.lu(m, n).executed == m * n * n - n**3 // 3
    assert f.inverse(n).executed == 2 * n**3
    assert f.cholesky_inverse(n).executed == 2 * n**3 // 3
    assert f.least_squares(m, n, 1) == f.geqrf(m, n) + f.ormqr(m, 1, n) + f.solve_triangular(n, 1)
    assert (f.eigh(n).executed, f.eigh(n, False).executed) == (9 * n**3, 4 * n**3 // 3)
    assert (f.eig(n).executed, f.eig(n, False).executed) == (25 * n**3, 10 * n**3)
    assert f.svd(m, n).executed == f.svd(n, m).executed == 6 * m * n * n + 11 * n**3
    assert f.svd(m, n, vectors=False).executed == 2 * m * n * n + 2 * n**3
    assert f.svd(m, n, full=True).executed == 4 * m * m * n + 22 * n**3


def radix2(x, flops):
    """Cooley and Tukey; a butterfly is one complex product (6) and two complex sums (2 each)."""
    if len(x) == 1:
        return x
    even, odd, half = radix2(x[::2], flops), radix2(x[1::2], flops), len(x) // 2
    turned = [cmath.exp(-2j * cmath.pi * k / len(x)) * odd[k] for k in range(half)]
    flops.append(10 * half)
    return [e + t for e, t in zip(even, turned, strict=True)] + [e - t for e, t in zip(even, turned, strict=True)]


@pytest.mark.parametrize("length", [1, 2, 8, 32])
def test_fft(length):
    flops: list[int] = []
    radix2([complex(i) for i in range(length)], flops)
    assert f.fft([length], batch=3).executed == 3 * sum(flops)
    assert f.fft([length], batch=3, real=True).executed == 3 * sum(flops) // 2


def test_fft_of_several_dimensions_is_one_pass_each():
    assert f.fft([8, 4]).executed == f.fft([8], batch=4).executed + f.fft([4], batch=8).executed
    assert f.fft([7]).executed == 5 * 7 * 3  # the logarithm is rounded up


def test_huge_sizes_stay_exact():
    assert f.matmul(10**9, 10**9, 10**9 + 1).flops == 2 * 10**18 * (10**9 + 1)
