"""The race on a GPU, as far as a CPU can show it: the clock's events, entries in their best form, a full card."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from diffuapriel.benchmark import entry as entry_module
from diffuapriel.benchmark import memory
from diffuapriel.benchmark.entry import Entry, attention_kernel, random_denoiser, scan_backend
from diffuapriel.benchmark.generation import race
from diffuapriel.benchmark.memory import available_bytes, estimate_bytes, out_of_memory
from diffuapriel.benchmark.sweep import sweep
from diffuapriel.benchmark.timing import Clock
from diffuapriel.config import preset
from diffuapriel.model.engine import Engine
from tests.benchmark.fakes import sleeping_entry

CUDA = torch.device("cuda")


class FakeEvent:
    """A device event on a stream whose time is a counter."""

    now = 0.0
    waited: list[float] = []  # noqa: RUF012

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        assert stream == "the current stream"
        self.at = FakeEvent.now

    def synchronize(self) -> None:
        FakeEvent.waited.append(self.at)

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at  # milliseconds


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the current stream")
    FakeEvent.now, FakeEvent.waited = 0.0, []


def test_time_on_a_gpu_is_the_device_s_own_and_nobody_waits_before_it_is_asked_for(events):
    clock = Clock("cuda")
    start = clock.mark()
    FakeEvent.now = 1500.0
    end = clock.mark()
    assert FakeEvent.waited == [], "a mark does not wait"
    assert clock.seconds(start, end) == 1.5
    assert FakeEvent.waited == [1500.0], "only the later mark is waited for"
    assert clock.kind == "device events"


def full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 120_000_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20_000_000_000, 141_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3_000_000_000)


def test_free_memory_of_a_card_counts_what_pytorch_holds_unused(card):
    assert available_bytes("cuda") == 22_000_000_000


def test_a_full_card_is_told_with_the_figures(card):
    assert out_of_memory("cuda", "x") == "x ran out of GPU memory: it held 120 GB of 141 GB"


def test_a_race_that_fills_the_card_is_a_memory_error():
    entry = dataclasses.replace(sleeping_entry("large", lambda _: 0), denoiser=full)
    with pytest.raises(MemoryError, match="large at 8 tokens ran out of memory"):
        race([entry], 8, 2)


def test_a_sweep_goes_on_without_the_entry_that_filled_the_card():
    entry = dataclasses.replace(sleeping_entry("large", lambda _: 0), denoiser=full)
    result = sweep([entry, sleeping_entry("small", lambda _: 0)], lengths=(8, 16), repeats=1)
    assert {p.entry for p in result.points} == {"small"}
    assert [(r.entry, r.length) for r in result.refusals] == [("large", 8), ("large", 16)]
    assert "ran out of memory" in result.refusals[0].message


def test_half_the_bytes_need_half_the_memory(monkeypatch):
    entry = Entry.random("nano", "diffuapriel")
    needed = estimate_bytes(preset("nano", "diffuapriel"), 64)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)  # 80 % of it may be used
    with pytest.raises(MemoryError, match="needs about"):
        race([entry], 64, 1)
    assert race([entry.tuned("bfloat16")], 64, 1, repeats=1).entries[0].dtype == "bfloat16"


def test_on_a_cpu_an_entry_is_in_its_best_form_already():
    entry = Entry.random("nano", "diffuapriel")
    assert entry.tuned() is entry
    assert (entry.dtype, entry.scan, entry.form) == ("float32", "chunked", "plain PyTorch")
    assert Entry.random("nano", "diffutran").scan == "none"


def test_a_tuned_entry_is_a_copy_with_matrices_in_bfloat16():
    entry = Entry.random("nano", "diffuapriel")
    tuned = entry.tuned("bfloat16")
    assert isinstance(tuned.denoiser, Engine)
    assert tuned.denoiser.model.head.weight.dtype == torch.bfloat16
    assert tuned.denoiser.model.blocks[0].mixer.A_log.dtype == torch.float32, "decay rates stay in float32"
    assert entry.denoiser.head.weight.dtype == torch.float32, "the entry itself is as it was"
    assert 0.5 < tuned.weight_bytes / entry.weight_bytes < 0.6


def test_on_a_gpu_an_entry_runs_in_the_engine_in_bfloat16(monkeypatch):
    monkeypatch.setattr(entry_module, "attention_kernel", lambda *about: "cudnn attention")
    monkeypatch.setattr(entry_module, "scan_backend", lambda *about: "triton")
    entry = dataclasses.replace(Entry.random("nano", "diffuapriel"), device=CUDA)
    tuned = entry.tuned()
    assert (tuned.dtype, tuned.scan, tuned.attention) == ("bfloat16", "triton", "cudnn attention")
    assert "CUDA graph" in tuned.form
    assert entry.tuned("float32").dtype == "float32"


def test_what_is_not_ours_cannot_be_tuned_and_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="not a Denoiser of this package"):
        sleeping_entry("fake", lambda _: 0).tuned("bfloat16")
    with pytest.raises(ValueError, match="dtype is 'int8'; permitted: float32, bfloat16"):
        Entry.random("nano", "diffuapriel").tuned("int8")


def test_random_weights_compute_what_trained_ones_do():
    model = random_denoiser(preset("nano", "diffuapriel"), seed=1)
    again = random_denoiser(preset("nano", "diffuapriel"), seed=1)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        states = model.hidden(ids, torch.ones(1))
        assert torch.equal(states, again.hidden(ids, torch.ones(1)))
        moved = model.hidden(ids.flip(1), torch.ones(1)).flip(1)
    assert not torch.allclose(states, moved, atol=1e-3), "no block is gated away: tokens see each other"


def test_the_caller_s_random_numbers_are_not_moved():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    random_denoiser(preset("nano", "diffuapriel"))
    assert torch.equal(torch.rand(1), expected)


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(ValueError, match="device is 'nonsense', which cannot be used here") as caught:
        Entry.random("nano", "diffuapriel", device="nonsense")
    assert "\n" not in str(caught.value)


def test_a_result_says_what_ran():
    entries = [Entry.random("nano", "diffuapriel"), Entry.random("nano", "diffutran")]
    said = " ".join(race(entries, 8, 1, repeats=1, warmup_steps=1).fairness())
    assert "Scan: diffuapriel nano, random weights: chunked." in said
    assert "Attention kernel: diffutran nano, random weights:" in said
    mixed = [entries[0], dataclasses.replace(entries[1], form="compiled")]
    assert "NOT treated alike" in " ".join(race(mixed, 8, 1, repeats=1, warmup_steps=1).fairness())


def test_kernels_are_asked_for_by_device_and_dtype():
    config = preset("nano", "diffuapriel-h")
    assert attention_kernel(config, torch.device("cpu"), torch.float32) in ("flash attention", "math")
    assert scan_backend(config, torch.device("cpu"), torch.float32) == "chunked"


def test_what_a_length_recorded_is_given_back_before_the_next():
    class Recorder:
        kept, most = 0, 0

        def __call__(self, ids, sigma, positions):
            self.kept = max(self.kept, 1)
            self.most = max(self.most, self.kept)
            return torch.zeros(int(positions.sum()), 3)

        def clear_cache(self):
            self.kept = 0

    recorder = Recorder()
    entry = dataclasses.replace(sleeping_entry("records", lambda _: 0), denoiser=recorder)
    sweep([entry], lengths=(8, 16), repeats=1)
    assert (recorder.kept, recorder.most) == (0, 1)
