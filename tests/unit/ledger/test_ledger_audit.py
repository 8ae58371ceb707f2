"""The audit: every counted operation against its formula, what must fail, and attention's executed pairs by probing."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from isoflop.core.errors import UsageError
from isoflop.ledger import formulas as f
from isoflop.ledger import operations
from isoflop.ledger.audit import Audit, _name, _suspect

M, K, N, B = 3, 4, 5, 2
R = {name: torch.randn(shape, generator=torch.Generator().manual_seed(0)) for name, shape in [
    ("mk", (M, K)), ("kn", (K, N)), ("mn", (M, N)), ("bmk", (B, M, K)), ("bkn", (B, K, N)), ("bmn", (B, M, N)),
    ("m", (M,)), ("k", (K,)), ("n", (N,)), ("kk", (K, K)), ("bkk", (B, K, K)), ("tall", (6, K)), ("btall", (B, 6, K)),
]}  # fmt: skip
R["spd"] = R["kk"] @ R["kk"].T + K * torch.eye(K)
R["upper"] = R["spd"].triu()
MKN = 2 * M * K * N
TALL = 6, K


def out(*shape: int) -> torch.Tensor:
    return torch.empty(shape)


OPERATIONS = [
    ("mm", lambda r: r["mk"] @ r["kn"], MKN),
    ("mm out", lambda r: torch.mm(r["mk"], r["kn"], out=out(M, N)), MKN),
    ("matmul out", lambda r: torch.matmul(r["mk"], r["kn"], out=out(M, N)), MKN),
    ("addmm", lambda r: torch.addmm(r["mn"], r["mk"], r["kn"]), MKN),
    ("addmm out", lambda r: torch.addmm(r["mn"], r["mk"], r["kn"], out=out(M, N)), MKN),
    ("addmm_", lambda r: r["mn"].clone().addmm_(r["mk"], r["kn"]), MKN),
    ("bmm", lambda r: r["bmk"] @ r["bkn"], B * MKN),
    ("bmm out", lambda r: torch.bmm(r["bmk"], r["bkn"], out=out(B, M, N)), B * MKN),
    ("baddbmm", lambda r: torch.baddbmm(r["bmn"], r["bmk"], r["bkn"]), B * MKN),
    ("baddbmm_", lambda r: r["bmn"].clone().baddbmm_(r["bmk"], r["bkn"]), B * MKN),
    ("addbmm", lambda r: torch.addbmm(r["mn"], r["bmk"], r["bkn"]), B * MKN),
    ("addbmm_", lambda r: r["mn"].clone().addbmm_(r["bmk"], r["bkn"]), B * MKN),
    ("mv", lambda r: r["mk"] @ r["k"], 2 * M * K),
    ("addmv", lambda r: torch.addmv(r["m"], r["mk"], r["k"]), 2 * M * K),
    ("addmv_", lambda r: r["m"].clone().addmv_(r["mk"], r["k"]), 2 * M * K),
    ("dot", lambda r: r["k"] @ r["k"], 2 * K),
    ("vdot", lambda r: torch.vdot(r["k"], r["k"]), 2 * K),
    ("addr", lambda r: torch.addr(r["mn"], r["m"], r["n"]), 2 * M * N),
    ("outer is elementwise", lambda r: torch.outer(r["m"], r["n"]), 0),
    ("linear", lambda r: F.linear(r["bmk"], r["kn"].T.contiguous(), r["n"]), B * MKN),
    ("einsum", lambda r: torch.einsum("bmk,bkn->bmn", r["bmk"], r["bkn"]), B * MKN),
    ("chain_matmul", lambda r: torch.linalg.multi_dot([r["mk"], r["kn"], r["n"]]), 2 * K * N + 2 * M * K),
    ("tensordot", lambda r: torch.tensordot(r["mk"], r["kn"], dims=1), MKN),
    ("complex", lambda r: r["mk"].cfloat() @ r["kn"].cfloat(), 4 * MKN),
    ("float64", lambda r: r["mk"].double() @ r["kn"].double(), MKN),
    ("bfloat16", lambda r: r["mk"].bfloat16() @ r["kn"].bfloat16(), MKN),
    ("int_mm", lambda r: torch._int_mm(torch.ones(32, 16).char(), torch.ones(16, 8).char()), 2 * 32 * 16 * 8),
    ("foreach_mm", lambda r: torch._foreach_mm([r["mk"], r["kk"]], [r["kn"], r["kn"]]), MKN + 2 * K * K * N),
    ("conv1d", lambda r: F.conv1d(out(2, 4, 9), out(6, 4, 3)), f.convolution(2, 4, 6, [3], [7]).forward.executed),
    ("conv2d", lambda r: F.conv2d(out(2, 4, 9, 8), out(6, 2, 3, 2), stride=2, padding=1, groups=2),
     f.convolution(2, 4, 6, [3, 2], [5, 5], groups=2).forward.executed),
    ("conv_transpose1d", lambda r: F.conv_transpose1d(out(2, 4, 9), out(4, 6, 3)), 2 * 2 * 9 * 4 * 6 * 3),
    ("qr", lambda r: torch.linalg.qr(r["btall"]), f.qr(*TALL, batch=B).executed),
    ("qr complete", lambda r: torch.linalg.qr(r["tall"], mode="complete"), f.qr(*TALL, "complete").executed),
    ("qr r", lambda r: torch.linalg.qr(r["tall"], mode="r"), f.qr(*TALL, "r").executed),
    ("qr out", lambda r: torch.linalg.qr(r["tall"], out=(out(6, K), out(K, K))), f.qr(*TALL).executed),
    ("geqrf", lambda r: torch.geqrf(r["btall"]), f.geqrf(*TALL, batch=B).executed),
    ("householder_product", lambda r: torch.linalg.householder_product(r["tall"], r["k"]), f.orgqr(*TALL, K).executed),
    ("ormqr", lambda r: torch.ormqr(r["tall"], r["k"], torch.ones(6, 2)), f.ormqr(6, 2, K).executed),
    ("ormqr right", lambda r: torch.ormqr(r["tall"], r["k"], torch.ones(2, 6), left=False), f.ormqr(6, 2, K).executed),
    ("eigh", lambda r: torch.linalg.eigh(r["bkk"]), f.eigh(K, batch=B).executed),
    ("eigh values", lambda r: torch._linalg_eigh(r["kk"], compute_v=False), f.eigh(K, vectors=False).executed),
    ("eig", lambda r: torch.linalg.eig(r["kk"]), f.eig(K).executed),
    ("eig values", lambda r: torch.ops.aten._linalg_eigvals(r["kk"]), f.eig(K, vectors=False).executed),
    ("svd", lambda r: torch.linalg.svd(r["btall"], full_matrices=False), f.svd(*TALL, batch=B).executed),
    ("svd full", lambda r: torch.linalg.svd(r["tall"]), f.svd(*TALL, full=True).executed),
    ("svd values", lambda r: torch._linalg_svd(r["tall"], compute_uv=False), f.svd(*TALL, vectors=False).executed),
    ("inv", lambda r: torch.linalg.inv(r["bkk"]), f.inverse(K, batch=B).executed),
    ("inv out", lambda r: torch.linalg.inv(r["kk"], out=out(K, K)), f.inverse(K).executed),
    ("cholesky", lambda r: torch.linalg.cholesky(r["spd"]), f.cholesky(K).executed),
    ("cholesky old", lambda r: torch.cholesky(r["spd"]), f.cholesky(K).executed),
    ("cholesky_inverse", lambda r: torch.cholesky_inverse(r["upper"]), f.cholesky_inverse(K).executed),
    ("cholesky_solve", lambda r: torch.cholesky_solve(r["kn"], r["upper"]), 2 * f.solve_triangular(K, N).executed),
    ("solve_triangular", lambda r: torch.linalg.solve_triangular(r["upper"], r["kn"], upper=True),
     f.solve_triangular(K, N).executed),
    ("triangular_solve", lambda r: torch.triangular_solve(r["kn"], r["upper"]), f.solve_triangular(K, N).executed),
    ("solve", lambda r: torch.linalg.solve(r["spd"], r["kn"]), f.solve(K, N).executed),
    ("solve vector", lambda r: torch.linalg.solve(r["spd"], r["k"]), f.solve(K, 1).executed),
    ("lu_factor", lambda r: torch.linalg.lu_factor(r["tall"]), f.lu(*TALL).executed),
    ("lu", lambda r: torch.linalg.lu(r["bkk"]), f.lu(K, K, batch=B).executed),
    ("lu_solve", lambda r: torch.linalg.lu_solve(r["upper"], torch.arange(1, K + 1, dtype=torch.int32), r["kn"]),
     2 * f.solve_triangular(K, N).executed),
    ("det", lambda r: torch.linalg.det(r["bkk"]), f.lu(K, K, batch=B).executed),
    ("slogdet", lambda r: torch.linalg.slogdet(r["kk"]), f.lu(K, K).executed),
    ("lstsq", lambda r: torch.linalg.lstsq(r["tall"], torch.ones(6, 2)), f.least_squares(*TALL, 2).executed),
    ("fft", lambda r: torch.fft.fft(torch.ones(3, 8, dtype=torch.cfloat)), f.fft([8], batch=3).executed),
    ("rfft", lambda r: torch.fft.rfft(torch.ones(3, 8)), f.fft([8], batch=3, real=True).executed),
    ("irfft", lambda r: torch.fft.irfft(torch.ones(3, 5, dtype=torch.cfloat)), f.fft([8], batch=3, real=True).executed),
    ("fft2", lambda r: torch.fft.fft2(torch.ones(3, 8, 4, dtype=torch.cfloat)), f.fft([8, 4], batch=3).executed),
    ("elementwise is free", lambda r: torch.linalg.vector_norm(r["mk"].softmax(-1).cumsum(0).sqrt()), 0),
    ("embedding is free", lambda r: F.embedding(torch.tensor([1, 2]), r["mk"]), 0),
    ("resampling is free", lambda r: F.interpolate(torch.ones(1, 1, 4, 4), scale_factor=2.0, mode="bilinear"), 0),
]  # fmt: skip


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("call", "flops"), [row[1:] for row in OPERATIONS], ids=[row[0] for row in OPERATIONS])
@pytest.mark.filterwarnings("ignore")  # deprecated forms are counted too
def test_operation(call, flops, mode):
    with mode(), Audit() as audit:
        call(R)
    assert audit.total() == flops


GRADIENTS = [
    ("linear", lambda x, w: F.linear(x, w), (6, 4), (5, 4), f.linear(6, 4, 5)),
    ("conv", lambda x, w: F.conv1d(x, w, padding=1), (2, 4, 9), (6, 4, 3), f.convolution(2, 4, 6, [3], [9])),
    ("bmm", torch.bmm, (2, 3, 4), (2, 4, 5), f.linear(3, 4, 5) * 2),
]


@pytest.mark.parametrize(("call", "x", "w", "work"), [row[1:] for row in GRADIENTS], ids=[row[0] for row in GRADIENTS])
@pytest.mark.parametrize("input_gradient", [True, False])
def test_backward_equals_the_formulas(call, x, w, work, input_gradient):
    x, w = torch.ones(x, requires_grad=input_gradient), torch.ones(w, requires_grad=True)
    with Audit() as audit:
        result = call(x, w)
        with audit.phase("recompute"):
            result.backward(torch.ones_like(result))
    assert audit.total("train") == work.forward.executed
    assert audit.total("recompute") == work.backward.executed // (1 if input_gradient else 2)


# ---------------------------------------------------------------- attention


def attention_inputs(length: int, keys: int | None = None):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, length, 8), (2, 3, keys or length, 8), (2, 3, keys or length, 8)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("length", "keys"), [(1, 1), (16, 16), (600, 600), (16, 48)])
@pytest.mark.parametrize("causal", [True, False])
def test_cpu_flash_attention(length, keys, causal):
    q, k, v = attention_inputs(length, keys)
    work = f.attention(
        2, 3, 8, length, keys, pairs=0, executed_pairs=f.flash_cpu_pairs(length, keys, causal), recompute=True
    )
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    with Audit() as audit:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        assert audit.counts() == {"_scaled_dot_product_flash_attention_for_cpu": work.forward.executed}
        with audit.phase("search"):
            out.sum().backward()
    assert torch.equal(out, plain)  # the audit does not change the kernel
    assert audit.total("search") == work.backward.executed + work.recompute.executed


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_cpu_flash_attention_without_gradients(mode):
    q, k, v = attention_inputs(16)
    with mode(), Audit() as audit:
        F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert audit.total() == 4 * 2 * 3 * 8 * 16 * 16


def test_explicit_attention_executes_the_square():
    q, k, v = attention_inputs(16)
    work = f.attention(2, 3, 8, 16)
    with Audit() as audit:
        mask = torch.ones(16, 16, dtype=torch.bool).tril()
        ((q @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1) @ v).sum().backward()
    assert audit.total() == work.total.executed
    assert work.total.flops * 32 == work.total.executed * 17


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [5, 40, 200, 600, 800])
def test_the_kernel_visits_the_pairs_that_we_count(length, dtype):
    """A NaN at key j reaches query i's output exactly if the kernel multiplied that pair, masked or not."""
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    visited = torch.tensor([f.flash_cpu_pairs(i + 1, length) - f.flash_cpu_pairs(i, length) for i in range(length)])
    probes = torch.tensor(sorted({0, length // 2, length - 1, min(511, length - 1), min(512, length - 1)}))
    ones = torch.ones(len(probes), 1, length, 2, dtype=dtype)
    poisoned = ones.clone()
    poisoned[torch.arange(len(probes)), 0, probes] = torch.nan
    result, _ = forward(ones, ones, poisoned, is_causal=True)
    assert torch.equal(result[:, 0, :, 0].isnan(), visited[None, :] > probes[:, None])
    result, logsumexp = forward(ones, ones, ones, is_causal=True)
    _, _, gradient = backward(poisoned, ones, ones, ones, result, logsumexp, 0.0, True)
    assert torch.equal(gradient[:, 0, :, 0].isnan().sum(1), visited[probes])


@pytest.mark.parametrize("kind", ["flash", "efficient", "cudnn"])
def test_fused_attention_of_other_devices_by_shape(kind):
    q, k, v = attention_inputs(16)
    arguments = {"query": q, "key": k, "value": v, "is_causal": True}
    work = f.attention(2, 3, 8, 16, executed_pairs=f.flash_cuda_pairs(16), recompute=True)
    name = f"_scaled_dot_product_{kind}_attention"
    assert operations.FORMULAS[name](arguments, None) == work.forward.executed == work.forward.flops
    assert operations.FORMULAS[f"{name}_backward"](arguments, None) == (work.backward + work.recompute).executed


# ---------------------------------------------------------------- optimizers, custom functions, phases


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (1, 5)])
def test_newton_schulz_is_what_torchs_muon_executes(shape):
    parameter = torch.nn.Parameter(torch.ones(shape))
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Muon([parameter])
    with Audit() as audit, audit.phase("optimizer"):
        optimizer.step()
    assert audit.total("optimizer") == audit.total() == f.newton_schulz(*shape).executed


@pytest.mark.parametrize("how", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_elementwise_optimizers_pass(how):
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.ones(4, 4)
    with Audit() as audit:
        torch.optim.AdamW([parameter], **how).step()
    assert audit.counts() == {}
    assert not torch.equal(parameter, torch.ones(4, 4))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return 2 * (x @ w)

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        return torch.mm(2 * gradient, w.T), x.T @ (2 * gradient)


def test_custom_functions_are_seen_through():
    x, w = torch.ones(M, K, requires_grad=True), torch.ones(K, N, requires_grad=True)
    with Audit() as audit:
        Doubled.apply(x, w).sum().backward()
    assert audit.counts() == {"mm": 3 * MKN}


def test_phases_nest_and_survive_errors():
    with Audit() as audit:
        with audit.phase("scoring"):
            with contextlib.suppress(ZeroDivisionError), audit.phase("teacher"):
                R["mk"] @ R["kn"]
                raise ZeroDivisionError
            R["k"] @ R["k"]
        R["mk"] @ R["k"]
    assert audit.counts("teacher") == {"mm": MKN}
    assert audit.counts("scoring") == {"dot": 2 * K}
    assert audit.counts("train") == {"mv": 2 * M * K}
    assert audit.counts() == {"mm": MKN, "dot": 2 * K, "mv": 2 * M * K}
    assert audit.total() == MKN + 2 * K + 2 * M * K
    with pytest.raises(UsageError, match="train"), audit.phase("trian"):
        pass


def test_agrees_with_torchs_counter_where_that_counts():
    def work():
        x = torch.ones(2, 3, 8, requires_grad=True)
        y = F.linear(F.conv1d(x, torch.ones(4, 3, 3, requires_grad=True)), torch.ones(5, 6, requires_grad=True))
        torch.baddbmm(y, y, torch.ones(2, 5, 5)).sum().backward()

    with FlopCounterMode(display=False) as theirs:
        work()
    with Audit() as ours:
        work()
    assert ours.total() == theirs.get_total_flops() > 0


# ---------------------------------------------------------------- what must fail


UNKNOWN = [
    ("linalg_matrix_exp", lambda: torch.matrix_exp(R["kk"])),
    ("_cdist_forward", lambda: torch.cdist(R["mk"], R["mk"], p=1.0)),
    ("_trilinear", lambda: F.bilinear(R["mk"], R["mk"], torch.ones(2, K, K))),
    ("mm", lambda: torch.mm(R["mk"].to_sparse_csr(), R["kn"])),
]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(("name", "call"), UNKNOWN, ids=[row[0] for row in UNKNOWN])
def test_matmul_class_without_formula_fails(name, call):
    with pytest.raises(UsageError, match=name), Audit():
        call()
    call()  # without an audit nothing is refused


def test_foreign_operations_fail_until_they_have_a_formula():
    @torch.library.custom_op("isoflop_tests::triple", mutates_args=())
    def triple(x: torch.Tensor) -> torch.Tensor:
        return x @ x @ x

    with pytest.raises(UsageError, match="isoflop_tests::triple"), Audit():
        triple(R["kk"])
    operations.formula("isoflop_tests::triple")(lambda a, out: 2 * f.matmul(K, K, K).executed)
    try:
        with Audit() as audit:
            triple(R["kk"])
        assert audit.counts() == {"isoflop_tests::triple": 4 * K**3}
    finally:
        del operations.FORMULAS["isoflop_tests::triple"]


def test_whatever_torchs_counter_knows_is_counted_or_refused():
    packets = [packet for packet in flop_registry if isinstance(packet, torch._ops.OpOverloadPacket)]
    aten = {_name(getattr(packet, packet.overloads()[0])) for packet in packets}
    assert len(aten) > 10
    assert [name for name in sorted(aten) if name not in operations.FORMULAS and not _suspect(name)] == []


def test_formulas_name_operations_that_exist():
    missing = [name for name in operations.FORMULAS if not hasattr(torch.ops.aten, name)]
    assert missing == []


@pytest.mark.parametrize(
    "name", ["relu", "gelu_backward", "cummax", "lgamma", "rsqrt", "hamming_window", "softmax", "t"]
)
def test_elementwise_names_are_not_suspect(name):
    assert not _suspect(name)
