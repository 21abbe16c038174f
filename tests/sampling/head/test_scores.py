"""The kernel that scores without logits against its plain twin, in Triton's interpreter where there is no GPU."""

import re
from pathlib import Path

import pytest
import torch

from diffuapriel.sampling.head.scores import Scores, head_scores, plain_scores, unsupported_reason
from tests.ops.triton.offline import printed

kernel = pytest.importorskip("diffuapriel.sampling.head.kernel", reason="Triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = kernel.Tile(rows=16, columns=32, depth=16, warps=4, stages=2)


def scores(rows: torch.Tensor, weight: torch.Tensor, tokens: int, wanted: int | None = None) -> Scores:
    """By the kernel, from tensors of any dtype."""
    count = torch.tensor([len(rows) if wanted is None else wanted], device=DEVICE)
    found, _ = kernel.kernel_scores(rows.to(DEVICE), weight.to(DEVICE), tokens, count, SMALL)
    return Scores(*(x.cpu() for x in found))


def random(n: int, d_model: int, padded: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n + d_model)
    return torch.randn(n, d_model, generator=generator) * scale, torch.randn(padded, d_model, generator=generator)


def assert_agree(got: Scores, expected: Scores) -> None:
    for name, a, b in zip(Scores._fields, got, expected):
        torch.testing.assert_close(
            a.double(), b.double(), atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(
    "n, d_model, tokens, padded",
    [(1, 16, 1, 64), (5, 24, 37, 64), (16, 32, 32, 33), (33, 33, 65, 128), (40, 64, 130, 192)],
)
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_the_kernel_agrees_with_logits_in_float64(n, d_model, tokens, padded, scale):
    rows, weight = random(n, d_model, padded, scale)
    assert_agree(scores(rows, weight, tokens), plain_scores(rows.double(), weight.double(), tokens))


def test_the_split_of_the_vocabulary_makes_no_difference(monkeypatch):
    rows, weight = random(20, 16, 320)
    expected = plain_scores(rows.double(), weight.double(), 300)
    for shares in (1, 2, 3, 10, 100):
        monkeypatch.setattr(kernel, "MIN_SHARES", shares)
        monkeypatch.setattr(kernel, "WAVES", 1)
        assert_agree(scores(rows, weight, 300), expected)


def test_mask_and_padding_are_never_read():
    rows, weight = random(9, 16, 64)
    expected = plain_scores(rows, weight, 40)
    weight[40:] = torch.nan
    assert_agree(scores(rows, weight, 40), expected)


def test_of_equals_the_lowest_id_is_best_and_there_is_no_margin():
    rows = torch.ones(3, 16)
    weight = torch.zeros(128, 16)
    weight[[5, 30, 31, 90]] = 1.0  # in one tile, and in two
    got = scores(rows, weight, 100)
    assert got.best.tolist() == [5, 5, 5] and got.margin.tolist() == [0, 0, 0]
    weight[[5, 30, 31]] = 0.5
    got = scores(rows, weight, 100)
    assert got.best.tolist() == [90] * 3 and (got.margin > 0.9).all()


def test_rows_behind_the_count_are_left_alone():
    rows, weight = random(50, 16, 64)
    rows[20:] = torch.nan
    got = scores(rows, weight, 60, wanted=20)
    expected = plain_scores(rows[:20], weight, 60)
    assert_agree(Scores(*(x[:20] for x in got)), expected)
    scores(rows, weight, 60, wanted=0)


def test_a_row_that_is_no_distribution_shows():
    rows, weight = random(4, 16, 64)
    rows[1, 3] = torch.nan
    rows[2, :] = torch.inf
    got = scores(rows, weight, 60)
    for numbers in (got.probability, got.entropy, got.margin):
        assert numbers.isfinite().tolist() == [True, False, False, True]


def test_on_a_cpu_the_plain_twin_is_taken():
    rows, weight = random(4, 16, 64)
    assert unsupported_reason(weight) is None
    for a, b in zip(head_scores(rows, weight, 60, torch.tensor([4])), plain_scores(rows, weight, 60)):
        assert torch.equal(a, b)


def test_the_kernel_compiles_for_hopper_and_ampere_and_spills_nothing():
    found = printed(Path(__file__).with_name("compiling.py"))
    print(found)
    lines = found.splitlines()
    assert len(lines) == 12
    for line in lines:
        assert re.search(r"\bstack 0\b", line), line
