"""A shared denoiser: one pass for all who wait, and to each of them the text that they would get alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from diffuapriel.benchmark.entry import random_denoiser
from diffuapriel.config import preset
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.shared import RowByRow, SharedDenoiser, Stopped
from diffuapriel.trace.steering import SteeredGeneration
from tests.sampling.models import fixed_logits

MASK, LENGTH = 5, 8
SCHEDULE = get_schedule("log-linear")


def canvas(length: int = LENGTH, mask_id: int = MASK) -> Canvas:
    ids = torch.full((length,), mask_id)
    return Canvas(ids, ids != mask_id, mask_id)


def written(denoiser, config: SamplerConfig, start: Canvas) -> list[int]:
    run = SteeredGeneration(start, config, SCHEDULE)
    while not run.done:
        run.advance(denoiser)
    return run.state.ids[0].tolist()


def together(shared: SharedDenoiser, jobs) -> list[list[int]]:
    """The texts of (config, canvas) jobs that share a denoiser, each in a thread of its own."""
    begin = threading.Barrier(len(jobs))

    def run(job):
        with shared.seat() as seat:
            begin.wait()
            return written(seat, *job)

    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(run, jobs))


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffuapriel-h", "diffutran"])
def test_texts_are_those_written_alone_whatever_runs_beside_them(architecture):
    model = random_denoiser(preset("nano", architecture, vocab_size=40))
    mask = model.config.mask_id
    strategies = ("low_confidence", "ancestral", "remdm", "random")
    jobs = [
        (SamplerConfig(strategy=name, steps=2 + n, seed=n), canvas(32 if n < 3 else 20, mask))
        for n, name in enumerate(strategies)
    ]
    texts = together(SharedDenoiser(model), jobs)
    assert texts == [written(model, *job) for job in jobs]


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffuapriel-h", "diffutran"])
def test_logits_of_a_batch_have_the_bits_of_its_rows(architecture):
    model = random_denoiser(preset("nano", architecture, vocab_size=40))
    ids = torch.randint(39, (5, 64), generator=torch.Generator().manual_seed(0))
    sigma, positions = torch.linspace(0.1, 0.9, 5), torch.arange(64) < torch.tensor([[60], [64], [1], [30], [2]])
    with torch.no_grad():
        alone = torch.cat([model(*(x[r : r + 1] for x in (ids, sigma, positions))) for r in range(5)])
        with RowByRow([60, 64, 1, 30, 2]):
            batch = model(ids, sigma, positions)
    assert torch.equal(batch, alone)


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffuapriel-h", "diffutran"])
@pytest.mark.parametrize(("strategy", "drafts"), [("threshold", 1), ("speculative", 1), ("speculative", 3)])
def test_models_of_blocks_share_passes_too_with_rows_at_different_blocks(architecture, strategy, drafts):
    shape = preset("nano", architecture, vocab_size=40, block_lengths=(1, 16, 0), time_conditioning=False)
    model = random_denoiser(shape)
    config = SamplerConfig(strategy, block_length=16, block_start="zero", threshold=0.1, drafts=drafts)
    jobs = []
    for seed, given in enumerate((0, 20, 36, 24)):
        start = canvas(48, model.config.mask_id)
        start.ids[:given], start.fixed[:given] = torch.arange(given), True
        jobs.append((replace(config, seed=seed), start))

    @contextmanager
    def turn(_):
        for _ in range(6000):
            if len(shared._calls) == shared.seats:
                break
            time.sleep(0.01)
        yield

    shared = SharedDenoiser(denoiser_for(model, config), turn=turn)
    texts = together(shared, jobs)
    assert texts == [written(denoiser_for(model, config), *job) for job in jobs]
    shares = any(exact and rows > 1 for (_, rows), exact in shared._exact.items())
    assert shares == (drafts == 1)


def test_one_pass_serves_all_who_wait():
    denoiser, busy = fixed_logits(LENGTH, MASK + 1), threading.Semaphore(0)

    @contextmanager
    def turn(flag):
        busy.acquire()
        yield

    shared = SharedDenoiser(denoiser, turn=turn)
    for passes in (1 + 6, 1):  # the first time the rows are also computed alone, to compare
        denoiser.asked.clear()
        with ThreadPoolExecutor(1) as threads:
            texts = threads.submit(together, shared, [(SamplerConfig(steps=1, seed=n), canvas()) for n in range(6)])
            while len(shared._calls) < 6:
                time.sleep(0.001)
            busy.release()
            assert len(texts.result()) == 6
        assert [len(ids) for ids, _, _ in denoiser.asked] == [6, *[1] * 6][:passes]
    assert shared.seats == 0 and shared.seconds > 0


def test_a_pass_has_canvases_of_one_length_and_at_most_as_many_as_permitted():
    denoiser = fixed_logits(LENGTH, MASK + 1)
    denoiser.logits_of = lambda ids: torch.zeros(*ids.shape, MASK + 1)
    together(SharedDenoiser(denoiser, most=2), [(SamplerConfig(steps=4, seed=n), canvas(6 + n % 2)) for n in range(6)])
    assert {ids.shape[1] for ids, _, _ in denoiser.asked} == {6, 7}
    assert max(len(ids) for ids, _, _ in denoiser.asked) == 2


def test_where_a_batch_has_other_bits_the_rows_are_answered_alone():
    def logits_of(ids):
        return torch.arange(float(MASK + 1)).expand(*ids.shape, -1) * (1 + 1e-6 * (len(ids) > 1))

    denoiser = fixed_logits(LENGTH, MASK + 1)
    denoiser.logits_of = logits_of
    jobs = [(SamplerConfig(steps=LENGTH, seed=n, temperature=5.0), canvas()) for n in range(3)]
    shared = SharedDenoiser(denoiser)
    assert together(shared, jobs) == [written(denoiser, *job) for job in jobs]
    assert not any(shared._exact.values())


def test_a_batch_that_fails_is_answered_row_by_row_and_an_error_reaches_its_own_run_only():
    def denoiser(ids, sigma, positions):
        if len(ids) > 1:
            raise MemoryError("too many rows")
        if ids[0, 0] == 1:
            raise ValueError("this canvas")
        return torch.zeros(int(positions.sum()), MASK + 1)

    config, bad = SamplerConfig(steps=2, temperature=0), torch.full((LENGTH,), MASK)
    bad[0] = 1
    shared = SharedDenoiser(denoiser)
    with shared.seat() as one, shared.seat() as other, ThreadPoolExecutor(2) as threads:
        good = threads.submit(written, one, config, canvas())
        failed = threads.submit(written, other, config, Canvas(bad, bad != MASK, MASK))
        with pytest.raises(ValueError, match="this canvas"):
            failed.result()
        assert good.result() == [0] * LENGTH


def test_a_stopped_seat_leaves_while_it_waits_and_the_others_go_on():
    busy, stopped = threading.Lock(), threading.Event()
    busy.acquire()  # a race has the machine

    @contextmanager
    def turn(flag):
        while not busy.acquire(timeout=0.01):
            if flag.is_set():
                raise Stopped
        try:
            yield
        finally:
            busy.release()

    shared = SharedDenoiser(fixed_logits(LENGTH, MASK + 1), turn=turn)
    sampler = Sampler(SamplerConfig(steps=1), SCHEDULE, MASK)
    with shared.seat(stopped) as one, shared.seat() as other, ThreadPoolExecutor(2) as threads:
        waits = threads.submit(sampler.advance, one, sampler.start(canvas()))
        goes_on = threads.submit(sampler.advance, other, sampler.start(canvas()))
        time.sleep(0.05)
        stopped.set()
        with pytest.raises(Stopped):
            waits.result(timeout=120)
        busy.release()
        assert not goes_on.result(timeout=120).masked.any()
