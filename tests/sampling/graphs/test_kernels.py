"""The kernels of a recorded step against its plain twin, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.graphs import plain
from diffuapriel.sampling.graphs.blocks import STRATEGIES
from diffuapriel.sampling.graphs.plain import Rule, Texts
from diffuapriel.sampling.head.kernel import Tile
from diffuapriel.sampling.tokens import inverse_cdf
from tests.ops.triton.offline import printed

kernels = pytest.importorskip("diffuapriel.sampling.graphs.kernels", reason="Triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Tile(rows=16, columns=32, depth=16, warps=4, stages=2)
TOKENS, WIDTH = 75, 24  # the vocabulary has three tiles, the last one not full


def texts(batch: int, blocks: int, block_length: int, masked: float = 0.6) -> Texts:
    """Texts whose active blocks are full, empty and in between, and differ from row to row."""
    generator = torch.Generator().manual_seed(batch + block_length)
    canvas = torch.randint(TOKENS, (batch, blocks * block_length), generator=generator)
    block = torch.arange(batch) % blocks
    for row in range(batch):
        begin = int(block[row]) * block_length
        share = (0.0, masked, 1.0)[row % 3]
        now = canvas[row, begin : begin + block_length]
        now[torch.rand(block_length, generator=generator) < share] = TOKENS
        canvas[row, begin + block_length :] = TOKENS
    left = torch.stack([(row == TOKENS).view(blocks, -1).sum(1)[b] for row, b in zip(canvas, block, strict=True)])
    count = torch.randint(1, 4, (batch,), generator=generator)
    uniform = torch.rand(batch, block_length, generator=generator, dtype=torch.float64)
    made = canvas, torch.stack([block, left]), count, uniform, torch.zeros((), dtype=torch.int64), torch.tensor(True)
    return Texts(*(v.to(DEVICE) for v in made))


def step(by: object, given: Texts, rule: Rule, commits: bool, x: torch.Tensor, weight: torch.Tensor, **tile) -> Texts:
    after = Texts(*(v.clone() for v in given))
    active = by.begin(after, rule, commits)
    assert (active.commit is None) == (not commits)
    by.reveal(after, rule, active, x, weight, **tile)
    return after


def inputs(given: Texts, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(given.uniform.numel(), WIDTH, generator=generator) * scale
    return x.to(DEVICE), torch.randn(TOKENS + 13, WIDTH, generator=generator).to(DEVICE)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("batch, blocks, block_length", [(1, 3, 1), (3, 2, 4), (6, 3, 17)])
def test_a_step_changes_what_the_plain_one_changes(batch, blocks, block_length, strategy):
    given = texts(batch, blocks, block_length)
    x, weight = inputs(given)
    filters = {"temperature": 0.9, "top_k": 5, "top_p": 0.8}
    for options in ({"temperature": 0.0}, {}, {"temperature": 0.6}, filters):
        config = SamplerConfig(strategy, block_length=block_length, threshold=0.4, **options)
        rule = Rule(config, TOKENS, min(4, block_length), strategy != "threshold")
        if strategy == "threshold":
            rule = rule._replace(most=block_length)
        for commits in (True, False) if options == filters else (True,):
            expected = step(plain, given, rule, commits, x, weight)
            found = step(kernels, given, rule, commits, x, weight, tile=SMALL)
            for name, a, b in zip(Texts._fields, found, expected, strict=True):
                assert torch.equal(a, b), (options, commits, name)
            assert (found.status[0] != given.status[0]).any() == (commits and blocks > 1)
            assert batch == 1 or not torch.equal(found.canvas, given.canvas)


def test_blocks_are_not_committed_while_that_is_off():
    given = texts(4, 2, 4)
    given.enabled.fill_(False)
    rule = Rule(SamplerConfig(block_length=4), TOKENS, 4, True)
    x, weight = inputs(given)
    assert torch.equal(step(kernels, given, rule, True, x, weight, tile=SMALL).status[0], given.status[0])


def test_masks_without_a_distribution_are_counted_and_the_others_filled():
    given = texts(3, 2, 8)
    x, weight = inputs(given)
    x.view(3, 8, -1)[2, :3] = torch.nan
    rule = Rule(SamplerConfig(block_length=8, temperature=0), TOKENS, 8, True)
    found = step(kernels, given, rule, True, x, weight, tile=SMALL)
    assert int(found.bad_rows) == int(((given.canvas[2].view(2, 8)[int(given.status[0, 2])] == TOKENS)[:3]).sum()) > 0
    assert int((found.canvas[1] == TOKENS).sum()) < int((given.canvas[1] == TOKENS).sum())


def test_draws_follow_the_cumulative_sum_from_end_to_end():
    """Every token of a distribution with a long tail has its own part of [0, 1)."""
    n = 64
    numbers = torch.cat([torch.tensor([0, 2**-60]), torch.linspace(0.01, 1, n - 2)]).double().clamp(max=1 - 2**-53)
    given = texts(1, 1, n)
    given.canvas.fill_(TOKENS)
    given.status.copy_(torch.tensor([[0], [n]]))
    given.count.fill_(n)
    given.uniform.copy_(numbers)
    x, weight = inputs(given)
    x[:] = x[:1] * 3
    for temperature in (1.0, 0.5, 3.0):
        rule = Rule(SamplerConfig(block_length=n, temperature=temperature), TOKENS, n, True)
        found = step(kernels, given, rule, False, x, weight, tile=SMALL).canvas[0]
        logits = (x[:1].double() @ weight[:TOKENS].double().T) / temperature
        weights = (logits - logits.amax()).exp().expand(n, -1)
        expected = inverse_cdf(weights, given.uniform[0])
        assert torch.equal(found, expected) and found[0] == 0 and (found.diff() >= 0).all()


def test_a_threshold_is_compared_as_the_plain_step_compares_it():
    for threshold in (0.9, 0.1, 0.5, 1.0, 1 / 3):
        least = torch.tensor(kernels._at_least(threshold), dtype=torch.float32)
        below = torch.nextafter(least, torch.tensor(0.0))
        assert least.double() >= threshold > below.double()


def test_the_kernels_compile_for_hopper_and_ampere_and_spill_next_to_nothing():
    found = printed(Path(__file__).with_name("compiling.py"))
    print(found)
    lines = found.splitlines()
    assert {line.split()[1] for line in lines} == {"begin_kernel:", "select_kernel:", "draw_kernel:", "shares_kernel:"}
    for line in lines:
        assert int(re.findall(r"\bstack (\d+)", line)[0]) <= 16, line
