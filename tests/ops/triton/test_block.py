"""The mixer over blocks, with a state and a history that are not zero, is that of the recurrence in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")

from diffuapriel.config import ModelConfig
from diffuapriel.model.blocks import BlockPass, MambaCache
from diffuapriel.model.mamba2 import BidirectionalMamba2, following
from diffuapriel.ops.ssd import choose_backend
from diffuapriel.ops.triton import block as triton_block
from diffuapriel.ops.triton.launch import CHUNK
from diffuapriel.ops.triton.mixer import block_mixer, mix_in_place
from tests.gpu.parity import relative_error

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter's NumPy speaks up at log2(0)
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: tests/gpu runs the full grid"),
]

TOLERANCE = 1e-5  # relative to the largest value, float32
ROWS = 2


def make(groups: int = 1, state: int = 16) -> tuple[BidirectionalMamba2, BidirectionalMamba2, MambaCache]:
    """A mixer on the kernels, the same in float64 on the recurrence, and a cache of random numbers."""
    shape = {"d_model": 16, "depth": 1, "d_state": state, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    torch.manual_seed(groups + state)
    config = ModelConfig("diffuapriel", vocab_size=20, n_groups=groups, **shape)
    ours = BidirectionalMamba2(config, backend="triton")
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    exact = copy.deepcopy(ours).double()
    exact.backend = "recurrent"
    channels = config.d_inner + 2 * groups * state
    return ours, exact, MambaCache(torch.randn(ROWS, config.n_heads, 16, state), torch.randn(ROWS, 3, channels))


def geometry(block_length: int, length: int, committed: int | None = None) -> BlockPass:
    return BlockPass(block_length, length, torch.zeros(ROWS, dtype=torch.int64), True, 1, committed)


@pytest.mark.parametrize(
    "groups, state, block_length, length, committed",
    [
        *((1, 16, n, n, None) for n in (1, 3, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1)),
        (2, 32, 17, 17, None),
        (2, 16, CHUNK + 1, CHUNK + 1, None),
        (2, 32, 4 * CHUNK, 4 * CHUNK, None),
        (1, 64, 3 * CHUNK - 1, 3 * CHUNK - 1, None),
        (1, 16, 8 * CHUNK + 3, 8 * CHUNK + 1, None),  # walked from chunk to chunk, and shorter than a whole block
        (1, 64, 3, 3, None),
        (1, 16, 4, 11, 8),  # two blocks are committed, and a shorter one is denoised
        (1, 16, CHUNK + 2, 4 * CHUNK + 10, 4 * CHUNK + 8),  # blocks of more than a chunk; the prompt is cut into splits
    ],
)
def test_a_block_goes_on_from_the_state_before_it(groups, state, block_length, length, committed) -> None:
    ours, exact, cache = make(groups, state)
    u, over = torch.randn(ROWS, length, 16), geometry(block_length, length, committed)
    before = [v.clone() for v in vars(cache).values()]
    with torch.no_grad():
        y, after = ours.forward_blocks(u, over, cache)
        expected = exact.forward_blocks(u.double(), over, MambaCache(*(v.double() for v in before)))
    pairs = {"y": (y, expected[0])}
    if groups == 2:  # as in an engine: the kernels leave the norm's weight out
        with torch.no_grad():
            ours.fold_norm()
            pairs["folded"] = ours.forward_blocks(u, over, cache)[0], expected[0]
    pairs |= {name: (getattr(after, name), getattr(expected[1], name)) for name in ("state", "history")}
    errors = {name: relative_error(*pair) for name, pair in pairs.items()}
    print(errors)
    assert max(errors.values()) < TOLERANCE
    assert all(torch.equal(a, b) for a, b in zip(before, vars(cache).values())), "a cache is never changed"


@pytest.mark.parametrize("length", [1, 2, 5, CHUNK + 6, 8 * CHUNK + 1])
def test_state_and_history_are_replaced_in_the_rows_that_are_committed(length: int) -> None:
    ours, _, cache = make(groups=2)
    projected = torch.randn(ROWS, length, ours.in_proj.out_features)
    *parameters, norm_weight = (v.detach() for v in ours._mixer_parameters())
    options = {"norm_weight": norm_weight, "groups": 2}
    given = {"state": cache.state, "history": cache.history, "block_length": length}
    g, squares, final = block_mixer(projected, *parameters, **given, **options)
    state, history, commit = cache.state.clone(), cache.history.clone(), torch.tensor([False, True])
    found = mix_in_place(projected, *parameters, state=state, history=history, commit=commit, **options)
    assert torch.equal(found[0], g) and torch.equal(found[1].sum(3), squares) and torch.equal(state[1], final[1])
    after = following(cache.history, ours._split(projected)[1][:, :, 0])
    assert torch.equal(state[0], cache.state[0])
    assert torch.equal(history, torch.stack([cache.history[0], after[1]]))


def test_the_whole_model_takes_the_kernels_without_gradients_only(monkeypatch) -> None:
    monkeypatch.setenv("DIFFUAPRIEL_SSD", "triton")
    ours, _, cache = make()
    ours.backend = "auto"
    u, over, calls = torch.randn(ROWS, 4, 16), geometry(4, 4), []
    mix = triton_block.mix_blocks
    monkeypatch.setattr(triton_block, "mix_blocks", lambda *a, **k: calls.append(a) or mix(*a, **k))
    assert choose_backend("auto", u, 16, 16) == "triton"
    y, _ = ours.forward_blocks(u, over, cache)
    assert y.requires_grad and not calls
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_blocks(u, over, cache)[0], y, atol=1e-5, rtol=1e-5)
    assert len(calls) == 1


def test_the_compiler_takes_a_block_whole() -> None:
    ours, _, cache = make()
    projected = torch.randn(ROWS, 4, ours.in_proj.out_features)
    *parameters, norm_weight = (v.detach() for v in ours._mixer_parameters())

    def run(state: Tensor, history: Tensor) -> tuple[Tensor, ...]:
        options = {"state": state, "history": history, "block_length": 4}
        g, squares, final = block_mixer(projected, *parameters, norm_weight=norm_weight, **options)
        return g * 2, squares, final.clone()

    expected = run(cache.state.clone(), cache.history.clone())
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(compiled(cache.state.clone(), cache.history.clone()), expected, strict=True):
        torch.testing.assert_close(got, wanted)
