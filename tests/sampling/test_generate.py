"""The fast path says what the plain path says, and waits for nothing on the way."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffuapriel.config import ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import BLOCK_STARTS, STRATEGIES, SamplerConfig
from diffuapriel.sampling.generate import (
    FIXED_ORDER,
    SCORED,
    ScoredGraph,
    _cache,
    clear_cache,
    fill,
    generate,
    prepare,
    unsupported_reason,
)
from diffuapriel.sampling.head import scores as head_scores
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.head.exact import ExactHead, holes

MODULE = "diffuapriel.sampling.generate"
M = 30  # [MASK]
FAST = FIXED_ORDER + SCORED


def of(strategy: str, schedule: str = "log-linear", **options) -> Sampler:
    return Sampler(SamplerConfig(strategy, **options), get_schedule(schedule), M)


def canvases(ids: torch.Tensor, mask_id: int = M) -> list[Canvas]:
    return [Canvas(row, row != mask_id, mask_id) for row in ids]


def fast(s: Sampler, denoiser, ids: torch.Tensor, first_row: int = 0) -> torch.Tensor:
    return fill(s, denoiser, s.start(canvases(ids, s.mask_id), first_row))[0]


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("rows, length", [(1, 1), (4, 7), (5, 24)])
@pytest.mark.parametrize("strategy", FAST)
def test_at_temperature_zero_the_text_is_that_of_the_plain_path(strategy, rows, length, steps):
    denoiser, ids = ExactHead(M + 1, length), holes(rows, length, M)
    s = of(strategy, steps=steps, temperature=0.0, seed=3)
    assert torch.equal(fast(s, denoiser, ids), generate(s, denoiser, ids))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 3},
        {"top_p": 0.7, "temperature": 1.3},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 2.0, "temperature": 0.0},
        {"repetition_penalty": 0.7, "top_k": 5, "top_p": 0.9},
        {"confidence": "drawn"},
        {"confidence": "drawn", "temperature": 1.7, "top_p": 0.9, "repetition_penalty": 1.5},
        {"alg_temp": 0.3},
        {"alg_temp": 0.3, "temperature": 0.0},
        {"alg_temp": 0.3, "confidence": "drawn"},
    ],
    ids=str,
)
@pytest.mark.parametrize("strategy", FAST)
def test_drawn_text_is_that_of_the_plain_path(strategy, options):
    denoiser, ids = ExactHead(M + 1, 19), holes(5, 19, M)
    s = of(strategy, steps=6, seed=11, remask_cap=0.3, remask_rescale=0.5, **options)
    assert torch.equal(fast(s, denoiser, ids, first_row=7), generate(s, denoiser, ids, first_row=7))


@pytest.mark.parametrize("block_start", BLOCK_STARTS)
@pytest.mark.parametrize("block_length", [1, 5, 40])
@pytest.mark.parametrize("options", [{}, {"confidence": "drawn"}, {"alg_temp": 0.2}], ids=str)
@pytest.mark.parametrize("strategy", ["random", *SCORED])
def test_blocks_are_filled_in_the_order_of_the_plain_path(strategy, options, block_length, block_start):
    denoiser, ids = ExactHead(M + 1, 19), holes(5, 19, M)
    ids[1:, 0], ids[2:, 1:3] = 2, 3  # prompts of several lengths
    s = of(strategy, steps=6, seed=11, block_length=block_length, block_start=block_start, **options)
    assert torch.equal(fast(s, denoiser, ids), generate(s, denoiser, ids))


@pytest.mark.parametrize("schedule", ["cosine", "quadratic"])
@pytest.mark.parametrize("strategy", ["ancestral", "remdm", "remdm_loop"])
def test_on_every_schedule(strategy, schedule):
    denoiser, ids = ExactHead(M + 1, 21), holes(4, 21, M)
    s = of(strategy, schedule, steps=9, remask_cap=0.5)
    assert torch.equal(fast(s, denoiser, ids), generate(s, denoiser, ids))


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffutran"])
@pytest.mark.parametrize("strategy", FAST)
def test_the_denoiser_of_the_package_writes_the_same_text(strategy, architecture):
    config = ModelConfig(
        architecture, d_model=32, depth=2, vocab_size=M + 1, d_state=16, headdim=16, attention_headdim=16
    )
    torch.manual_seed(0)
    denoiser = Denoiser(config).eval()
    for parameter in denoiser.parameters():
        parameter.data.normal_(std=0.3)
    ids = holes(3, 13, M)
    for options in ({"temperature": 0.0}, {"top_p": 0.9}):
        s = of(strategy, steps=5, seed=2, **options)
        assert torch.equal(fast(s, denoiser, ids), generate(s, denoiser, ids))


@pytest.mark.parametrize("strategy", ["remdm", "low_confidence"])
def test_tokens_that_are_neither_given_nor_masked_count_as_revealed_earlier(strategy):
    denoiser, ids = ExactHead(M + 1, 12), holes(3, 12, M)
    free = [Canvas(row, torch.arange(12) < 3, M) for row in ids.where(torch.arange(12) >= 3, 2)]
    s = of(strategy, steps=8, remask_cap=1.0)
    filled, _ = fill(s, denoiser, s.start(free))
    assert torch.equal(filled, generate(s, denoiser, free))


def test_equals_are_revealed_from_the_left():
    denoiser = ExactHead(M + 1, 9)
    denoiser.hidden = lambda ids, sigma: torch.ones(*ids.shape, 16) * ids.eq(M).sum(1)[:, None, None]
    for strategy in SCORED:
        s = of(strategy, steps=9, temperature=0.0)
        graph = prepare(s, denoiser, s.start(canvases(torch.full((1, 9), M))))
        graph.plan.steps[3:] = []
        list(graph.run())
        assert (graph.ids[0] == M).tolist() == [False] * 3 + [True] * 6


def test_rows_are_drawn_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr(f"{MODULE}.HEAD_ROWS", 3)
    denoiser, ids = ExactHead(M + 1, 10), holes(4, 10, M)
    for strategy in ("ancestral", "margin", "low_confidence"):
        s = of(strategy, steps=2, repetition_penalty=1.3, confidence="drawn")
        assert torch.equal(fast(s, denoiser, ids), generate(s, denoiser, ids))


def test_the_kernel_and_its_plain_twin_write_the_same_text(monkeypatch):
    kernel = pytest.importorskip("diffuapriel.sampling.head.kernel")
    if torch.cuda.is_available():
        pytest.skip("with a GPU, Triton does not interpret kernels; tests/gpu/test_sampler.py compares them there")
    tile = kernel.Tile(rows=16, columns=16, depth=16, warps=1, stages=1)
    denoiser, ids = ExactHead(M + 1, 11), holes(3, 11, M)
    for strategy in SCORED:
        s = of(strategy, steps=4, seed=1)
        plain = fast(s, denoiser, ids)
        with monkeypatch.context() as patched:
            patched.setattr(
                head_scores,
                "head_scores",
                lambda *given: head_scores.Scores(*kernel.kernel_scores(*given, tile)[0]),
            )
            assert torch.equal(fast(s, denoiser, ids), plain)


class Watch(TorchDispatchMode):
    """Notes every operation and the largest number of elements that one of them makes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        name = function.name()
        if name in ("aten::index.Tensor", "aten::index_put_") and any(is_mask(index) for index in args[1]):
            name = "index by a mask"
        self.names.add(name)
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made


def is_mask(index) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


WAITING = {"index by a mask"} | {
    f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
}


@pytest.mark.parametrize("options", [{}, {"confidence": "drawn", "alg_temp": 0.5}], ids=str)
@pytest.mark.parametrize("strategy", FAST)
def test_no_operation_of_a_step_waits_and_none_makes_a_tensor_of_batch_by_length_by_vocabulary(
    strategy, options, monkeypatch
):
    def scores(rows, weight, tokens, count):
        marks = rows[:, 0].float()
        return head_scores.Scores(marks, marks, marks, marks.long())

    # In the place of the kernel, which torch cannot see into.
    monkeypatch.setattr(head_scores, "head_scores", scores)
    monkeypatch.setattr(f"{MODULE}.HEAD_ROWS", 32)
    rows, length, tokens = 4, 64, 1000
    denoiser = ExactHead(tokens + 1, length, d_model=4)
    denoiser.hidden = lambda ids, sigma: ids[..., None].expand(-1, -1, 4) / 1000
    s = Sampler(
        SamplerConfig(strategy, steps=16, top_k=5, top_p=0.9, repetition_penalty=1.2, **options),
        get_schedule("log-linear"),
        tokens,
    )
    state = s.start(canvases(torch.full((rows, length), tokens), tokens))
    graph = prepare(s, denoiser, state)
    with torch.no_grad(), Watch() as watch:
        list(graph.run())
    assert not watch.names & WAITING
    assert watch.largest <= rows * length * tokens / 4


def test_generate_takes_the_fast_path_where_it_can(monkeypatch):
    denoiser, ids = ExactHead(M + 1, 8), holes(3, 8, M)
    s = of("low_confidence", steps=3)
    plain = generate(s, denoiser, ids)
    monkeypatch.setattr(f"{MODULE}.unsupported_reason", lambda *about: None)
    monkeypatch.setattr(f"{MODULE}.fill", lambda *given: taken.append(given) or fill(*given))
    taken = []
    assert torch.equal(generate(s, denoiser, ids), plain) and len(taken) == 1


def test_why_the_plain_path_is_taken_is_one_line():
    config, denoiser = SamplerConfig("low_confidence"), ExactHead(M + 1, 8)
    cuda = torch.device("cuda")
    assert "on cpu" in unsupported_reason(config, denoiser, torch.device("cpu"))
    assert "after each step" in unsupported_reason(SamplerConfig("threshold"), denoiser, cuda)
    assert "bare function" in unsupported_reason(config, lambda ids, sigma, positions: None, cuda)
    for strategy in STRATEGIES:
        assert (unsupported_reason(SamplerConfig(strategy), denoiser, cuda) is None) == (strategy in FAST)
    assert set(STRATEGIES) - set(FAST) == {"threshold", "factor", "entropy_bound", "remdm_conf"}


@pytest.mark.parametrize("strategy", FAST)
def test_a_canvas_without_holes_is_returned_as_it_is(strategy):
    ids = torch.ones(2, 5, dtype=torch.int64)
    denoiser = ExactHead(M + 1, 5)
    denoiser.hidden = None
    assert torch.equal(fast(of(strategy), denoiser, ids), ids)


@pytest.mark.parametrize("strategy", ["ancestral", "random"])
def test_broken_logits_are_a_clear_error(strategy):
    denoiser, ids = ExactHead(M + 1, 8), holes(3, 8, M)
    denoiser.head.weight.data[2] = torch.nan
    with pytest.raises(ValueError, match="logits hold NaN or infinity"):
        fast(of(strategy, steps=3), denoiser, ids)


def test_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="use one tokenizer for both"):
        fast(of("random"), ExactHead(M + 2, 8), holes(3, 8, M))


def test_what_was_recorded_serves_the_next_batch_of_its_size(monkeypatch):
    denoiser, ids = ExactHead(M + 1, 16), torch.full((2, 16), M)
    made = []
    monkeypatch.setattr(ScoredGraph, "__init__", lambda *given: made.append(given) or new(*given))
    for s, batch, expected in (
        (of("low_confidence", steps=4), ids, 1),
        (of("low_confidence", steps=4, seed=5), ids, 1),
        (of("low_confidence", steps=4, top_k=2), ids, 2),  # another option is another step
        (of("low_confidence", steps=4, top_k=2), ids[:1], 3),
        (of("low_confidence", steps=2, top_k=2), ids[:1], 4),
        (of("low_confidence", steps=2, confidence="drawn"), ids[:1], 5),
        (of("low_confidence", steps=2, confidence="drawn", alg_temp=0.5), ids[:1], 6),
        (of("low_confidence", steps=2, confidence="drawn", alg_temp=0.1), ids[:1], 6),  # the host scales the numbers
    ):
        assert torch.equal(fast(s, denoiser, batch), generate(s, denoiser, batch))
        assert len(made) == expected
    clear_cache(denoiser)
    fast(s, denoiser, batch)
    assert len(made) == 7


new = ScoredGraph.__init__


def test_what_was_recorded_goes_with_its_denoiser():
    denoiser = ExactHead(M + 1, 6)
    fast(of("random"), denoiser, holes(2, 6, M))
    gone = weakref.ref(denoiser)
    kept = weakref.ref(_cache[denoiser])
    del denoiser
    gc.collect()
    assert gone() is None and kept() is None
