"""Every backend of the scan agrees with the float64 recurrence on the same rounded inputs, forward and gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.ssd import BACKENDS, unsupported_reason
from tests.gpu.parity import TOLERANCE, outer_gradient, poison, relative_error

BOTH = (False, True)
NAMES = ("x", "dt", "A", "B", "C", "D", "state")
FAST = [name for name in BACKENDS if name != "recurrent"]
# No kernels: plain PyTorch rounds each of three products to bf16 before it adds them, and `minimal` takes decays from
# differences of sums over the whole text.
ALLOWANCE = {"chunked": 2, "minimal": 4}


@dataclass(frozen=True)
class Case:
    """Sizes of one call. Few pairs of headdim and state: each is compiled anew."""

    batch: int
    length: int
    heads: int
    groups: int
    headdim: int
    state: int
    reverse: tuple[bool, ...] = BOTH
    start: bool = field(default=True, kw_only=True)  # a random initial state, else zeros

    def __str__(self) -> str:
        ways = "".join("<" if backwards else ">" for backwards in self.reverse)
        sizes = f"{self.batch}x{self.length} h{self.heads} g{self.groups} p{self.headdim} n{self.state}"
        return f"{sizes} {ways}{' from zero' * (not self.start)}"


CASES = [
    Case(1, 1, 1, 1, 64, 128),
    Case(3, 1, 4, 2, 32, 16, start=False),
    Case(1, 2, 2, 1, 64, 64, (True,)),
    Case(3, 31, 2, 2, 32, 64),
    Case(1, 63, 3, 1, 64, 128, start=False),
    Case(1, 64, 4, 4, 64, 16, (False,)),
    Case(3, 65, 8, 2, 64, 128),
    Case(1, 127, 1, 1, 128, 128),
    Case(1, 128, 2, 1, 128, 32, start=False),
    Case(3, 129, 64, 1, 64, 128),
    Case(1, 255, 6, 3, 32, 64, (True,)),
    Case(1, 256, 16, 1, 64, 128, (False,)),
    Case(1, 257, 64, 2, 64, 128, start=False),
    Case(3, 500, 5, 1, 64, 64),
    Case(1, 777, 4, 1, 128, 128, start=False),
    Case(1, 1000, 8, 2, 32, 16),
    Case(3, 1023, 2, 2, 64, 16),
    Case(1, 1024, 4, 1, 64, 128, start=False),
    Case(1, 2049, 2, 1, 64, 128),
    Case(3, 2500, 1, 1, 32, 64, (True,)),
    Case(1, 4097, 2, 1, 64, 128),
    Case(1, 4097, 1, 1, 128, 32, (False,), start=False),
]


def random_call(case: Case, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Fresh inputs: steps from a thousandth to a half, rates from 1 to 16, as in a model."""
    b, l, h, g, p, n, k = *(getattr(case, size) for size in SIZES), len(case.reverse)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, device=device)

    def between(low: float, high: float, *size: int) -> Tensor:
        return torch.exp(math.log(low) + math.log(high / low) * torch.rand(size, device=device))

    return [
        normal(b, l, k, h, p).to(dtype),
        between(1e-3, 0.5, b, l, k, h),
        -between(1, 16, k, h),
        normal(b, l, k, g, n).to(dtype),
        normal(b, l, k, g, n).to(dtype),
        normal(k, h),
        normal(b, k, h, p, n) * case.start,
    ]


SIZES = ("batch", "length", "heads", "groups", "headdim", "state")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.xdist_group(f"{c.headdim}x{c.state}")) for c in CASES], ids=str
)
def test_every_backend_agrees_with_the_recurrence(case: Case, dtype: torch.dtype, device, record) -> None:
    torch.manual_seed(case.length)
    call = random_call(case, dtype, device)
    exact = [v.double().requires_grad_() for v in call]
    expected = BACKENDS["recurrent"](ScanInputs(*exact), case.reverse)
    outer = [outer_gradient(v.detach(), t) for v, t in zip(expected, (dtype, torch.float32))]
    truth = [
        *(v.detach() for v in expected),
        *torch.autograd.grad(expected, exact, [v.double() for v in outer]),
    ]
    del exact, expected
    wrong = []
    for name in FAST:
        if unsupported_reason(name, call[0], case.headdim, case.state):
            continue  # the test below says why
        errors = errors_of(name, case, call, outer, truth)
        most = TOLERANCE[dtype] * ALLOWANCE.get(name, 1)
        record(f"{name} {str(dtype).removeprefix('torch.')}", str(case), errors)
        wrong += [f"{name}: {t} {e:.1e}, at most {most:.0e}" for t, e in errors.items() if not e <= most]
    assert not wrong, f"{case}: {'; '.join(wrong)}"


def errors_of(name: str, case: Case, call: list[Tensor], outer: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    """The relative error of every output and gradient of one backend, its memory poisoned before either pass."""
    inputs = [v.clone().requires_grad_() for v in call]
    poison(truth)
    outputs = BACKENDS[name](ScanInputs(*inputs), case.reverse)
    assert outputs[0].dtype == call[0].dtype
    poison(truth)
    got = [*(v.detach() for v in outputs), *torch.autograd.grad(outputs, inputs, outer)]
    names = ("y", "final state", *(f"gradient of {n}" for n in NAMES))
    return {n: relative_error(g, t) for n, g, t in zip(names, got, truth, strict=True)}


@pytest.mark.parametrize("name", FAST)
def test_the_backend_can_run_here(name: str, device) -> None:
    reason = unsupported_reason(name, torch.empty(0, device=device, dtype=torch.bfloat16), 64, 128)
    if reason:
        pytest.skip(f"SSD backend {name!r} is not tested: {reason}")
