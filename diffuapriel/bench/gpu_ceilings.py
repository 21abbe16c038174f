"""What this machine can do: its bf16 matrix rate and its copy bandwidth, measured, not read from a data sheet.

A large product of random matrices (on zeros a GPU runs faster than on data) and a copy of several gigabytes, each
warmed up, medians over the rounds. Every fraction of a bound in the report stands on these two.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffuapriel.bench.alternate import turns
from diffuapriel.bench.bound import Rates
from diffuapriel.bench.gpu_plan import GpuPlan
from diffuapriel.bench.gpu_results import Ceilings

ROUNDS = 15
WARM_UPS = 5
IN_A_ROW = 4  # calls between two marks: the first one's launch is hidden behind the others


def measure_ceilings(plan: GpuPlan, device: torch.device | str) -> Ceilings:
    """Time the product and the copy in turn."""
    side = plan.matrix
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(side, side, generator=generator, device=device, dtype=plan.torch_dtype) for _ in range(2)
    )
    product = torch.empty_like(a)
    source = torch.randn(plan.copy_bytes // 4, generator=generator, device=device)
    target = torch.empty_like(source)
    contestants = {
        "product": _repeated(lambda: torch.mm(a, b, out=product)),
        "copy": _repeated(lambda: target.copy_(source)),
    }
    for call in contestants.values():
        for _ in range(WARM_UPS):
            call()
    ms = turns(contestants, repeats=ROUNDS, seconds=plan.seconds, device=device)
    return Ceilings(
        matrix_rates=tuple(_per_second(2 * side**3, t) for t in ms["product"]),
        bandwidths=tuple(_per_second(2 * source.nbytes, t) for t in ms["copy"]),
        matrix=side,
        copy_bytes=source.nbytes,
    )


def rates(ceilings: Ceilings) -> Rates:
    """The medians, as the bound wants them."""
    return Rates(matrix=ceilings.matrix_rate, bandwidth=ceilings.bandwidth)


def _per_second(amount: int, milliseconds: float) -> float:
    return float(f"{1000 * IN_A_ROW * amount / milliseconds:.5g}")


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(IN_A_ROW):
            call()

    return run
