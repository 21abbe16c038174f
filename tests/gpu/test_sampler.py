"""The fast path of generation on a CUDA device: its kernel, its text, its recording, and that it never waits."""

import pytest
import torch
import torch.nn.functional as F

from diffuapriel.config import ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.engine import compile_denoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import BLOCK_STARTS, SamplerConfig
from diffuapriel.sampling.generate import (
    FIXED_ORDER,
    SCORED,
    GenerationGraph,
    clear_cache,
    generate,
    prepare,
    unsupported_reason,
)
from diffuapriel.sampling.head.scores import Scores, head_scores, plain_scores
from diffuapriel.sampling.sampler import Sampler
from tests.sampling.head.exact import ExactHead, holes

M = 1000  # [MASK]
FAST = FIXED_ORDER + SCORED
OPTIONS = (
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"top_k": 20, "repetition_penalty": 1.2},
    {"confidence": "drawn", "alg_temp": 0.3},
)


def of(strategy: str, **options) -> Sampler:
    return Sampler(SamplerConfig(strategy, remask_cap=0.2, **options), get_schedule("log-linear"), M)


def plain(s: Sampler, denoiser, ids: torch.Tensor) -> torch.Tensor:
    """By the plain path, whatever the denoiser has to offer."""
    return generate(s, lambda *asked: denoiser(*asked), ids)


def prepared(s: Sampler, denoiser, ids: torch.Tensor) -> GenerationGraph:
    graph = prepare(s, denoiser, s.start([Canvas(row, row != M, M) for row in ids]))
    assert graph is not None
    return graph


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 64, 300, 2049])
@pytest.mark.parametrize(
    "d_model, tokens, padded", [(2048, 50_257, 50_304), (160, 4095, 4096), (1920, 777, 832), (56, 1, 64)]
)
def test_the_kernel_agrees_with_logits_in_full(dtype, n, d_model, tokens, padded, record):
    if dtype == torch.float32 and n * tokens > 2**24:
        n = 64  # exact products take long
    torch.manual_seed(0)
    rows = torch.randn(n, d_model, device="cuda", dtype=dtype)
    weight = torch.randn(padded, d_model, device="cuda", dtype=dtype) * 2 / d_model**0.5
    got = head_scores(rows, weight, tokens, torch.tensor([n], device="cuda"))
    expected = plain_scores(rows, weight, tokens)  # the same rounding of logits, scored by torch
    # A logit that falls on the other side of a rounding moves its row's scores: rarely, and by the dtype's step.
    most = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}[dtype]
    errors = {name: (a - b).abs() / (1 + b.abs()) for name, a, b in zip(Scores._fields[:3], got, expected)}
    case = f"{n} rows of {d_model}, {tokens:,} tokens, {dtype}"
    record("head and score", case, {name: error.max().item() for name, error in errors.items()})
    for error in errors.values():
        assert error.max() < most and error.quantile(0.9) < 2e-5
    logits = F.linear(rows.double(), weight.double())[:, :tokens]
    lost = logits.amax(-1) - logits.gather(-1, got.best[:, None]).squeeze(1)
    assert (lost <= most * logits.amax(-1).abs() + 1e-5).all()


def test_a_row_does_not_depend_on_its_place_in_the_list():
    torch.manual_seed(0)
    rows = torch.randn(1, 512, device="cuda", dtype=torch.bfloat16).expand(700, -1).contiguous()
    weight = torch.randn(5056, 512, device="cuda", dtype=torch.bfloat16)
    for numbers in head_scores(rows, weight, 5000, torch.tensor([700], device="cuda")):
        assert (numbers == numbers[0]).all()


def test_rows_behind_the_count_cost_nothing_and_change_nothing():
    torch.manual_seed(0)
    rows = torch.randn(1024, 512, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(5056, 512, device="cuda", dtype=torch.bfloat16)
    whole = head_scores(rows, weight, 5000, torch.tensor([1024], device="cuda"))
    rows[200:] = torch.nan
    part = head_scores(rows, weight, 5000, torch.tensor([200], device="cuda"))
    for a, b in zip(whole, part):
        assert torch.equal(a[:200], b[:200])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_logits_give_the_text_of_the_plain_path(dtype, strategy, options):
    denoiser = ExactHead(M + 1, 65, d_model=32, dtype=dtype, device="cuda")
    ids = holes(5, 65, M).cuda()
    s = of(strategy, steps=9, seed=1, **options)
    assert unsupported_reason(s.config, denoiser, ids.device) is None
    assert torch.equal(generate(s, denoiser, ids), plain(s, denoiser, ids))


@pytest.mark.parametrize("block_start", BLOCK_STARTS)
@pytest.mark.parametrize("strategy", ["random", *SCORED])
def test_blocks_are_filled_in_the_order_of_the_plain_path(strategy, block_start):
    """Also by a graph that was captured for prompts of other lengths."""
    denoiser = ExactHead(M + 1, 33, d_model=32, device="cuda")
    for prompt in (0, 3, 7):
        ids = holes(6, 33, M).cuda()
        ids[1:, :prompt] = 2
        s = of(strategy, steps=9, seed=11, block_length=5, block_start=block_start)
        assert torch.equal(generate(s, denoiser, ids), plain(s, denoiser, ids))


@pytest.mark.parametrize("strategy", FAST)
def test_the_denoiser_of_the_package_writes_the_same_text_in_float32(strategy):
    torch.manual_seed(0)
    denoiser = small_model()
    for parameter in denoiser.parameters():
        parameter.data.normal_(std=0.2)
    s, ids = of(strategy, steps=12, temperature=0.0), holes(3, 70, M).cuda()
    assert torch.equal(generate(s, denoiser, ids), plain(s, denoiser, ids))


@pytest.mark.parametrize("strategy", FAST)
def test_a_replayed_step_is_the_step_itself(strategy):
    denoiser, ids = ExactHead(M + 1, 33, d_model=32, device="cuda"), holes(4, 33, M).cuda()
    s = of(strategy, steps=7, top_p=0.9)
    with torch.no_grad():
        recorded = prepared(s, denoiser, ids)
        assert recorded.replay not in (None, recorded.step)
        replayed = torch.stack([now.clone() for now in recorded.run()])
        recorded.replay = recorded.step
        recorded.start(s.config, recorded.state, recorded.plan)
        assert torch.equal(torch.stack([now.clone() for now in recorded.run()]), replayed)
        assert len(replayed) > 1 and (replayed[-1] != M).all()


def small_model() -> Denoiser:
    config = ModelConfig("diffuapriel", d_model=128, depth=2, vocab_size=M + 1, d_state=32, headdim=32)
    return Denoiser(config).cuda().eval()


@pytest.mark.parametrize("ready", [lambda model: model, compile_denoiser], ids=["model", "engine"])
@pytest.mark.parametrize("strategy", FAST)
def test_nothing_waits_for_the_device(strategy, ready):
    denoiser, ids = ready(small_model()), holes(3, 70, M).cuda()
    s = of(strategy, steps=12, top_k=50, top_p=0.9, repetition_penalty=1.2)
    with torch.no_grad():
        graph = prepared(s, denoiser, ids)
        for advance in (graph.replay, graph.step):  # replayed, and as it stands
            graph.replay = advance
            graph.start(s.config, graph.state, graph.plan)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                list(graph.run())
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert (graph.ids != M).all()


def test_the_second_batch_replays_what_the_first_recorded(monkeypatch):
    denoiser, ids = ExactHead(M + 1, 40, device="cuda"), torch.full((3, 40), M, device="cuda")
    s = of("low_confidence", steps=5)
    first = generate(s, denoiser, ids)
    monkeypatch.setattr("diffuapriel.sampling.generate.record", None)
    other = generate(s, denoiser, ids, first_row=3)
    assert not torch.equal(first, other) and torch.equal(first, generate(s, denoiser, ids))
    monkeypatch.undo()
    clear_cache(denoiser)
    assert torch.equal(first, generate(s, denoiser, ids))


def test_broken_logits_are_told_when_all_is_done():
    for strategy in FAST:
        denoiser, ids = ExactHead(M + 1, 20, device="cuda"), holes(3, 20, M).cuda()
        denoiser.head.weight.data[3] = torch.nan
        with pytest.raises(ValueError, match="logits hold NaN or infinity"):
            generate(of(strategy, steps=4), denoiser, ids)
