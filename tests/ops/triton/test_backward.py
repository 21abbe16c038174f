"""The backward kernels agree with autograd through the plain code in float64; under Triton's interpreter on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")

from diffuapriel.model.mamba2 import two_way_convolution
from diffuapriel.ops import recurrent
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton import backward as triton_backward
from diffuapriel.ops.triton.autograd import mixer_gradients, scan_gradients
from diffuapriel.ops.triton.backward import SUMS, gate_backward, running_sums, step_gradients
from diffuapriel.ops.triton.conv import conv_backward, convolve
from tests.ops.triton.interpreter import exact_bf16

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOTH = (False, True)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
# (batch, length, heads, groups, headdim, state, reverse of each direction)
SHAPES = [
    (1, 1, 1, 1, 16, 16, BOTH),
    (2, 2, 2, 2, 16, 16, BOTH),
    (1, 63, 2, 1, 32, 16, (False,)),
    (1, 65, 4, 2, 16, 16, BOTH),
    (1, 129, 4, 2, 16, 16, BOTH),
    (2, 65, 1, 1, 16, 64, (True,)),
    (1, 130, 3, 1, 16, 16, (True,)),
]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """What torch.empty and its kin hand out holds NaN: a kernel that leaves a gap shows it."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def single(*tensors: Tensor) -> list[Tensor]:
    """Detached, contiguous, float32, where the kernels run."""
    return [v.detach().float().contiguous().to(DEVICE) for v in tensors]


def toward(y: Tensor) -> Tensor:
    """A random gradient that leans towards y, so that sums over all tokens do not come out near zero."""
    y = y.detach()
    return y / y.std(correction=0).clamp_min(1e-3) + torch.randn_like(y)


def assert_agree(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    errors = {}
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        error = (got[name].double().cpu() - value).abs().max()
        errors[name] = (error / value.abs().max().clamp_min(1e-30)).item()
    print(", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    assert all(error <= tolerance for error in errors.values()), errors


# The scan


def random_scan(shape: tuple, dtype: torch.dtype) -> list[Tensor]:
    """x, dt, A, B, C, D and a start, float64 but rounded to what the kernels get."""
    batch, length, heads, groups, headdim, state, reverse = shape
    k = len(reverse)
    torch.manual_seed(0)
    values = [
        torch.randn(batch, length, k, heads, headdim).to(dtype),
        torch.exp(torch.empty(batch, length, k, heads).uniform_(-7, -0.7)),
        -torch.exp(torch.empty(k, heads).uniform_(0, 2.8)),
        torch.randn(batch, length, k, groups, state).to(dtype),
        torch.randn(batch, length, k, groups, state).to(dtype),
        torch.randn(k, heads),
        torch.randn(batch, k, heads, headdim, state),
    ]
    return [v.double().requires_grad_() for v in values]


def scan_errors_within(shape: tuple, dtype: torch.dtype, tolerance: float) -> None:
    exact, reverse = random_scan(shape, dtype), shape[-1]
    outputs = recurrent.scan(ScanInputs(*exact), reverse)
    dy, dfinal = toward(outputs[0]).to(dtype), toward(outputs[1]).float()
    expected = torch.autograd.grad(outputs, exact, (dy.double(), dfinal.double()))
    x, dt, A, B, C, D, start = single(*exact)
    x, B, C = (v.to(dtype) for v in (x, B, C))
    steps = dt.permute(0, 2, 3, 1).contiguous()
    with exact_bf16() if DEVICE == "cpu" else nullcontext():
        got = scan_gradients(dy.to(DEVICE), dfinal.to(DEVICE), ScanInputs(x, steps, A, B, C, D, start), reverse)
    got = got._replace(dt=got.dt.permute(0, 3, 1, 2))
    assert_agree(got._asdict(), dict(zip(got._fields, expected)), tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_scans_gradients_are_those_of_the_recurrence(shape: tuple) -> None:
    scan_errors_within(shape, torch.float32, TOLERANCE[torch.float32])


@pytest.mark.parametrize("shape", [SHAPES[2], (1, 65, 2, 2, 16, 64, (True,))], ids=str)
def test_in_bfloat16_the_scans_gradients_stay_close(shape: tuple) -> None:
    scan_errors_within(shape, torch.bfloat16, TOLERANCE[torch.bfloat16])


def test_a_tokens_own_term_does_not_drown_the_gradient_of_dt() -> None:
    """With a strong decay nearly all of y is a token's own doing, and ds the small rest: bf16 must not lose it."""
    shape = (1, 65, 1, 1, 16, 16, BOTH)
    exact = random_scan(shape, torch.bfloat16)
    exact[1], exact[2] = torch.full_like(exact[1], 0.5).requires_grad_(), exact[2].mul(0).sub(8).detach()
    y, _ = recurrent.scan(ScanInputs(*exact), BOTH)
    dy = y.detach().to(torch.bfloat16)  # leans on the token's own term as hard as it can
    expected = torch.autograd.grad(y, exact[1], dy.double())[0]
    x, dt, A, B, C, D, start = single(*exact)
    x, B, C = (v.bfloat16() for v in (x, B, C))
    with exact_bf16() if DEVICE == "cpu" else nullcontext():
        steps = dt.permute(0, 2, 3, 1).contiguous()
        got = scan_gradients(dy.to(DEVICE), torch.zeros_like(start), ScanInputs(x, steps, A, B, C, D, start), BOTH)
    assert_agree({"dt": got.dt.permute(0, 3, 1, 2)}, {"dt": expected}, TOLERANCE[torch.bfloat16])


def test_splitting_the_heads_over_programs_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = random_scan((1, 20, 5, 1, 16, 16, (True,)), torch.float32)
    x, dt, A, B, C, D, start = single(*exact)
    steps, results = dt.permute(0, 2, 3, 1).contiguous(), []
    for parts in (1, 2, 5):
        monkeypatch.setattr(triton_backward, "_parts", lambda *_, parts=parts: parts)
        results.append(
            scan_gradients(x, torch.ones_like(start), ScanInputs(x, steps, A, B, C, D, start), (True,))._asdict()
        )
    for result in results[1:]:
        assert_agree(result, {name: v.double().cpu() for name, v in results[0].items()}, 1e-5)


def test_strong_decay_neither_overflows_nor_leaves_nan() -> None:
    x, dt, A, B, C, D, start = single(*random_scan((1, 65, 2, 1, 16, 16, BOTH), torch.float32))
    steps = 100 * dt.permute(0, 2, 3, 1).contiguous()
    got = scan_gradients(x, torch.ones_like(start), ScanInputs(x, steps, A, B, C, D, start), BOTH)
    assert all(v.isfinite().all() for v in got)


# The mixer


def plain_mixer(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    sizes: tuple[int, int, int, int],
) -> tuple[Tensor, ...]:
    """g and squares, and y, x, B, C and dt on the way to them."""
    heads, groups, headdim, state = sizes
    z, xBC, dt = projected.split([heads * headdim, conv_bias.shape[1], heads], 3)
    xBC = F.silu(two_way_convolution(xBC, conv_weight, conv_bias))
    x, B, C = xBC.split([heads * headdim, groups * state, groups * state], 3)
    x, B, C = (
        x.unflatten(3, (heads, headdim)),
        B.unflatten(3, (groups, state)),
        C.unflatten(3, (groups, state)),
    )
    dt = F.softplus(dt + dt_bias)
    start = x.new_zeros(x.shape[0], 2, heads, headdim, state)
    y, _ = recurrent.scan(ScanInputs(x, dt, A, B, C, D, start), BOTH)
    gated = y.flatten(3) * F.silu(z)
    g, squares = gated * norm_weight, gated.square().sum(3)
    return g.permute(2, 0, 1, 3), squares.permute(2, 0, 1), y, x, B, C, dt.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("batch", "length", "sizes", "taps"),
    [
        (2, 2, (1, 1, 16, 16), 4),
        (1, 64, (3, 1, 16, 16), 4),
        (1, 66, (2, 2, 16, 16), 4),
        (1, 130, (2, 1, 16, 16), 4),
        (1, 70, (1, 1, 32, 16), 2),
        (1, 20, (1, 1, 128, 16), 4),  # a short text with too large a head
    ],
    ids=str,
)
def test_the_mixers_gradients_are_those_of_the_plain_one(
    batch: int, length: int, sizes: tuple[int, int, int, int], taps: int
) -> None:
    torch.manual_seed(0)
    heads, groups, headdim, state = sizes
    inner, channels = heads * headdim, heads * headdim + 2 * groups * state
    exact = {
        "projected": torch.randn(batch, length, 2, inner + channels + heads),
        "conv_weight": torch.randn(2, taps, channels) / 2,
        "conv_bias": torch.randn(2, channels) / 2,
        "dt_bias": torch.randn(2, heads) - 1,
        "A": -4 * torch.rand(2, heads) - 0.1,
        "D": torch.randn(2, heads),
        "norm_weight": torch.randn(2, inner),
    }
    exact = {name: v.double().requires_grad_() for name, v in exact.items()}
    g, squares, *kept = plain_mixer(*exact.values(), sizes)
    outer = toward(g), torch.randn_like(squares) / 10
    expected = torch.autograd.grad((g, squares), tuple(exact.values()), outer)
    projected, weight, bias, _, A, D, norm = single(*exact.values())
    got = mixer_gradients(*single(*outer), projected, single(*kept), (weight, bias, A, D, norm))
    assert_agree(got._asdict(), dict(zip(exact, expected)), TOLERANCE[torch.float32])


# Its parts


@pytest.mark.parametrize(("length", "taps"), [(1, 4), (2, 4), (3, 3), (63, 1), (66, 4)])
def test_the_convolution_and_its_gradients(length: int, taps: int) -> None:
    torch.manual_seed(0)
    raw, weight, bias = torch.randn(2, length, 2, 48), torch.randn(2, taps, 48), torch.randn(2, 48)
    exact = [v.double().requires_grad_() for v in (raw, weight, bias)]
    x = F.silu(two_way_convolution(*exact))
    dx = torch.randn_like(x)
    expected = dict(zip(("raw", "weight", "bias"), torch.autograd.grad(x, exact, dx)))
    raw, weight, bias, dx = single(*exact, dx)
    wide = torch.empty(*raw.shape[:3], 60, device=DEVICE)  # the channels lie among others
    wide[..., 5:53] = raw
    draw = torch.full_like(wide, 7.0)
    sums = conv_backward(dx, wide[..., 5:53], weight, bias, BOTH, draw[..., 5:53])
    got = {"raw": draw[..., 5:53], "weight": sums[0], "bias": sums[1]}
    assert_agree(got, expected, TOLERANCE[torch.float32])
    assert (draw[..., :5] == 7).all() and (draw[..., 53:] == 7).all()
    first = convolve(wide[..., 5:37], weight, bias, BOTH)
    assert_agree({"x": first}, {"x": x.detach()[..., :32]}, TOLERANCE[torch.float32])


@pytest.mark.parametrize(("length", "channels"), [(1, 16), (65, 96), (130, 64)])
def test_the_gates_gradients(length: int, channels: int) -> None:
    torch.manual_seed(0)
    y, z = torch.randn(2, 2, length, 2, channels)
    exact = [v.double().requires_grad_() for v in (y, z, torch.randn(2, channels))]
    gated = exact[0] * F.silu(exact[1])
    outputs = (gated * exact[2]).permute(2, 0, 1, 3), gated.square().sum(3).permute(2, 0, 1)
    outer = toward(outputs[0]), torch.randn_like(outputs[1])
    expected = dict(zip(("y", "z", "weight"), torch.autograd.grad(outputs, exact, outer)))
    y, z, weight, dg, dsquares = single(*exact, *outer)
    dz = torch.empty_like(z)
    dy, dweight = gate_backward(dg, dsquares, y, z, weight, dz)
    assert_agree({"y": dy, "z": dz, "weight": dweight}, expected, TOLERANCE[torch.float32])


@pytest.mark.parametrize("raw", [-12.0, -2.3, -2.2, 0.0, 3.0, 30.0])
def test_the_gradient_goes_through_the_softplus_at_every_size(raw: float) -> None:
    before = torch.full((1, 1, 1, 1), raw, dtype=torch.float64, requires_grad=True)
    dt = F.softplus(before)
    expected = torch.autograd.grad(dt.sum(), before)[0]
    sums = torch.zeros(len(SUMS), 1, 1, 1, 1, triton_backward.CHUNK, device=DEVICE)
    sums[SUMS.index("row"), ..., 0] = 1  # the gradient of dt
    steps, A, ddt = *single(dt, torch.zeros(1, 1)), torch.empty(1, 1, 1, 1, device=DEVICE)
    _, _, dbias = step_gradients(steps, A, sums, (*torch.zeros_like(sums[:2]), None), (False,), ddt, softplus=True)
    assert_agree({"dt": ddt, "bias": dbias[None, None]}, {"dt": expected, "bias": expected}, 1e-6)


def test_running_sums_follow_the_scan_and_rest_beyond_the_end() -> None:
    dt, A = torch.rand(1, 2, 3, 70, device=DEVICE), -torch.rand(2, 3, device=DEVICE)
    s = running_sums(dt, A, BOTH, 64).flatten(3)[..., :70]
    a = dt * A[..., None]
    a = torch.stack([a[:, 0], a[:, 1].flip(-1)], 1)
    assert torch.allclose(s[..., :64], a[..., :64].cumsum(-1), atol=1e-6)
    assert torch.allclose(s[..., 64:], a[..., 64:].cumsum(-1), atol=1e-6)
    assert (running_sums(dt, A, BOTH, 64)[..., 1, 6:] == s[..., 69:]).all()


@pytest.mark.skipif(DEVICE == "cuda", reason="kernels run on the device, not in the interpreter")
def test_the_corrected_interpreter_rounds_and_multiplies_bfloat16() -> None:
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(a, b, rounded, product):
        at = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
        a_, b_ = tl.load(a + at).to(tl.bfloat16), tl.load(b + at).to(tl.bfloat16)
        tl.store(rounded + at, a_)
        tl.store(product + at, tl.dot(a_, b_))

    a, b = torch.randn(2, 16, 16)
    rounded, product = torch.empty(16, 16, dtype=torch.bfloat16), torch.empty(16, 16)
    with exact_bf16():
        kernel[(1,)](a, b, rounded, product)
    assert (rounded == a.bfloat16()).all()
    assert torch.allclose(product, a.bfloat16().float() @ b.bfloat16().float(), atol=1e-5)
