"""How many positions a recorded update may mask. That it is the update itself, tests/gpu/test_recording.py holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffuapriel.config import SCHEDULES
from diffuapriel.diffusion.objective import corrupt, stratified_t, van_der_corput_order
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.cudagraph import can_record, flatten_gradients, max_masked, recorded_or_plain
from diffuapriel.training.distributed import SingleProcess


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
