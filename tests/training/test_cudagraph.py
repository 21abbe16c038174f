"""How many positions a recorded step may mask, and what is recorded.

That a recorded step is the step itself is shown here with a stand-in for the recorder, which runs the step again, and
in tests/gpu/test_recording.py with CUDA graphs.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from diffuapriel.config import ARCHITECTURES, SCHEDULES
from diffuapriel.diffusion.blocks import mask_blocks, stratified_blocks
from diffuapriel.diffusion.objective import corrupt, stratified_t, van_der_corput_order
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.cudagraph import can_record, flatten_gradients, max_masked, recorded_or_plain
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.loop import draw_block_length
from tests.gpu.recorded import BLOCK_LENGTHS, STEPS, config_of, train_steps


@pytest.mark.parametrize("accumulation", [1, 3, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_part_masks_more_positions_than_there_is_room_for(name: str, accumulation: int) -> None:
    config = TrainConfig(length=64, batch_size=32, gradient_accumulation_steps=accumulation, steps=1, schedule=name)
    schedule, generator = get_schedule(name), torch.Generator().manual_seed(0)
    ids = torch.zeros(config.global_batch_size, 64, dtype=torch.int64)
    counts = []
    for _ in range(300 // accumulation):
        t = stratified_t(config.global_batch_size, generator)[van_der_corput_order(config.global_batch_size)]
        masked = corrupt(ids, t, schedule, 1, generator) == 1
        counts += [part.sum().item() for part in masked.split(32)]
    room = max_masked(config, rows=32)
    assert max(counts) <= room < 1.4 * sum(counts) / len(counts)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 48, 100])
def test_every_stretch_of_an_order_that_is_spread_covers_the_whole(n: int) -> None:
    order = van_der_corput_order(n)
    assert sorted(order.tolist()) == list(range(n))
    for size in range(1, n + 1):
        for part in order.split(size):
            assert abs(part.double().mean().item() - (n - 1) / 2) <= n / len(part), (size, part)


@pytest.mark.parametrize("rates", [None, "0.3,0.8"])
@pytest.mark.parametrize("accumulation", [1, 2, 8])
@pytest.mark.parametrize("block_length", [1, 3, 4, 16, 48, 0])
def test_no_part_of_blocks_masks_more_positions_than_there_is_room_for(
    block_length: int, accumulation: int, rates: str | None
) -> None:
    rows, length = 32 // accumulation, 48
    options = {"block_lengths": str(block_length), "mask_rates": rates, "steps": 1}
    config = TrainConfig(length=length, batch_size=rows, gradient_accumulation_steps=accumulation, **options)
    generator, blocks = torch.Generator().manual_seed(0), length // (block_length or length)
    counts = []
    for _ in range(200 // accumulation):
        u = stratified_blocks(32, blocks, generator, mask_rates=config.mask_rate_range)
        masked = mask_blocks(u, torch.rand(32, length, generator=generator))
        counts += [part.sum().item() for part in masked.split(rows)]
    room = max_masked(config, rows, block_length)
    assert max(counts) <= room <= rows * length
    if accumulation == 1:  # the sum then varies within the strata only
        assert room <= max(counts) + 2 * (block_length or length)


@pytest.mark.parametrize("n", [1000, 32768])
def test_rounding_of_a_stratum_s_end_has_room(n: int) -> None:
    """Every u at the end of its stratum, as a float32 of a large step can be."""
    for block_length in (1, 4, 64):
        config = TrainConfig(length=block_length * 8, batch_size=n // 8, steps=1)
        counts = mask_blocks((torch.arange(n) + 1).div(n).clamp_max(1 - 2**-24)[:, None], torch.rand(n, block_length))
        assert counts.sum() <= max_masked(config, n // 8, block_length)


class _OnCuda(SingleProcess):
    """One of `ranks` ranks, on paper."""

    def __init__(self, ranks: int = 1) -> None:
        super().__init__(torch.device("cuda"))
        self.world_size = ranks


def test_what_is_recorded() -> None:
    def recorded(processes: SingleProcess, **options: Any) -> bool:
        return can_record(TrainConfig(**{"steps": 1, "compile": True, "batch_size": 8, **options}), processes)

    assert recorded(_OnCuda()) and recorded(_OnCuda(), gradient_accumulation_steps=3) and recorded(_OnCuda(4))
    assert recorded(_OnCuda(2), gradient_accumulation_steps=2, strategy="ddp")
    assert not recorded(_OnCuda(2), strategy="fsdp"), "weights are gathered while the graph would run"
    assert not recorded(_OnCuda(2), gradient_accumulation_steps=3), "parts of eight rows and of four"
    assert not recorded(_OnCuda(), compile=False) and not recorded(_OnCuda(), document_boundaries=True)
    assert not recorded(SingleProcess(torch.device("cpu")))
    assert recorded(_OnCuda(), length=64, block_lengths="1,4,0")


def _run_again(step, device, pool=None):
    """Stands in for `record`: three warm-ups, and a replay that runs the step and overwrites its result."""
    for _ in range(3):
        step()
    result = step()
    return lambda: result.copy_(step()), result


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_steps_of_every_block_length_are_the_eager_ones(
    monkeypatch, architecture: str, accumulation: int
) -> None:
    monkeypatch.setattr("diffuapriel.training.cudagraph.record", _run_again)
    config, device = config_of(architecture, accumulation=accumulation), torch.device("cpu")
    assert {draw_block_length(config, step) for step in range(STEPS)} == set(BLOCK_LENGTHS)
    losses, weights = train_steps(config, device, recorded=False)
    recorded_losses, recorded_weights = train_steps(config, device, recorded=True)
    assert losses == recorded_losses and all(map(math.isfinite, losses))
    assert torch.equal(weights, recorded_weights)


def test_gradients_in_one_tensor_are_the_parameters_own() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3, bias=False))
    x = torch.randn(4, 5)
    model(x).square().sum().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    together = flatten_gradients(model)
    for _ in range(2):
        model(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)
        assert parameter.grad.data_ptr() % 64 == 0 and parameter.grad.is_contiguous()
    torch.testing.assert_close(together.sum(), 2 * torch.cat([g.flatten() for g in expected]).sum())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert together.norm().item() == pytest.approx(1.0)


def test_what_cannot_be_recorded_runs_as_it_is_and_says_why(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long story")

    monkeypatch.setattr("diffuapriel.training.cudagraph.Recorded.__init__", refuse)
    model, said = torch.nn.Linear(2, 2), []
    plain, add = object(), object()
    given = (plain, add, model, TrainConfig(steps=1), SingleProcess(torch.device("cpu")), said.append)
    assert recorded_or_plain(*given) is plain  # type: ignore[arg-type]
    assert said == [
        "the step could not be recorded, continuing without: operation not permitted when stream is capturing"
    ]


def test_a_rank_that_could_record_does_not_when_another_could_not(monkeypatch) -> None:
    monkeypatch.setattr("diffuapriel.training.cudagraph.Recorded.__init__", lambda *_: None)
    processes, said, plain = SingleProcess(torch.device("cpu")), [], object()
    processes.any_rank = lambda flag: True  # type: ignore[method-assign]
    given = (
        plain,
        object(),
        torch.nn.Linear(2, 2),
        TrainConfig(steps=1),
        processes,
    )
    assert recorded_or_plain(*given, said.append) is plain  # type: ignore[arg-type]
    assert said == ["the step could not be recorded, continuing without: not on every rank"]
