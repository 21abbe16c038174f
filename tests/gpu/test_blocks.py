"""Blocks on CUDA: mixer and attention go on from a cache as they should, the folded pass has the gradients of the plain
one, and recorded passes are the passes themselves.

Times are not tested here; they are measured by `diffuapriel bench --gpu blocks`.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.blocks import BlockPass, MambaCache
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model.engine import cast_matrices, compile_denoiser
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops import cached_attention
from diffuapriel.ops.ssd import unsupported_reason
from diffuapriel.sampling.blocks import CachedDenoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate_counted
from diffuapriel.sampling.graphs import blocks as graphs
from diffuapriel.sampling.sampler import Sampler
from tests.gpu.parity import TOLERANCE, outer_gradient, poison, relative_error

# (rows, d_model, headdim, state, groups): the large preset's heads, and small ones in two groups
SHAPES = [(1, 2048, 64, 128, 1), (3, 128, 32, 16, 2)]
# (block length, tokens, committed): one block, and whole blocks that are committed before the last one
BLOCKS = [*((n, n, None) for n in (1, 3, 16, 17, 63, 64, 65, 256, 1000)), (4, 11, 8), (48, 144, 96), (256, 8448, 8192)]
MASK, S = 200, 16


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_mixer_goes_on_from_a_state_as_the_recurrence_does(shape, blocks, dtype, device, record) -> None:
    rows, d_model, headdim, state, groups = shape
    block_length, length, committed = blocks
    config = ModelConfig("diffuapriel", d_model, depth=1, headdim=headdim, d_state=state, n_groups=groups)
    torch.manual_seed(length)
    mixer = BidirectionalMamba2(config, backend="triton").to(device)
    for weight in (mixer.D, mixer.norm_weight, mixer.conv_bias):
        weight.data.normal_()
    if reason := unsupported_reason("triton", torch.empty(0, device=device, dtype=dtype), headdim, state):
        pytest.skip(reason)
    mixer.in_proj.to(dtype)
    mixer.out_proj.to(dtype)
    channels = config.d_inner + 2 * groups * state
    cache = MambaCache(
        torch.randn(rows, config.n_heads, headdim, state, device=device),
        torch.randn(rows, 3, channels, device=device).to(dtype),
    )
    u = torch.randn(rows, length, d_model, device=device).to(dtype)
    over = BlockPass(block_length, length, torch.zeros(rows, dtype=torch.int64, device=device), True, 1, committed)
    exact = copy.deepcopy(mixer).double()
    exact.backend = "recurrent" if length < 300 else "chunked"  # float64 either way
    with torch.no_grad():
        truth, after = exact.forward_blocks(u.double(), over, MambaCache(*(v.double() for v in vars(cache).values())))
        poison([truth, after.state])
        y, found = mixer.forward_blocks(u, over, cache)
    errors = {"y": relative_error(y, truth), "state": relative_error(found.state, after.state)}
    errors["history"] = relative_error(found.history, after.history)
    record(f"triton blocks {str(dtype).removeprefix('torch.')}", f"{shape} {blocks}", errors)
    # In bf16 the projection before the mixer and the one after it are rounded too.
    assert max(errors.values()) <= TOLERANCE[dtype] * (3 if dtype == torch.bfloat16 else 1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("noisy_only", [False, True], ids=["both streams", "noisy only"])
@pytest.mark.parametrize("block_length", [1, 3, 4, 16, 17, 63, 64, 75, 150])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_folded_pass_and_its_gradients_are_those_of_the_plain_mixer(
    shape, block_length, noisy_only, dtype, device, record
) -> None:
    """Clean rows and their corrupted copies, from a state that is not zero, over more than one chunk."""
    rows, d_model, headdim, state, groups = shape
    length = -(-150 // block_length) * block_length
    config = ModelConfig("diffuapriel", d_model, depth=1, headdim=headdim, d_state=state, n_groups=groups)
    torch.manual_seed(block_length)
    mixer = BidirectionalMamba2(config, backend="triton").to(device)
    for weight in (mixer.D, mixer.norm_weight, mixer.conv_bias):
        weight.data.normal_()
    exact = copy.deepcopy(mixer).double()
    exact.backend = "recurrent"
    mixer.in_proj.to(dtype)
    mixer.out_proj.to(dtype)
    channels = config.d_inner + 2 * groups * state
    shapes = (rows, config.n_heads, headdim, state), (rows, 3, channels), (2 * rows, length, d_model)
    start, history, u = (torch.randn(size, device=device) for size in shapes)
    given = [start, history.to(dtype), u.to(dtype)]
    wide = [v.double() for v in given]
    lengths = torch.zeros(rows, dtype=torch.int64, device=device)
    over = BlockPass(block_length, length, lengths, True, streams=2, noisy_only=noisy_only)
    results = []
    for one, (start, history, u) in ((exact, wide), (mixer, given)):
        inputs = [v.requires_grad_() for v in (start, history, u)]
        y, after = one.forward_blocks(u, over, MambaCache(start, history))
        if not results:
            dy, dstate = outer_gradient(y.detach(), torch.float64), torch.randn_like(after.state)
            poison([y.detach(), after.state.detach()])
        parameters = dict(one.named_parameters())
        loss = (y * dy.to(y.dtype)).sum() + (after.state * dstate.to(after.state.dtype)).sum()
        gradients = torch.autograd.grad(loss, [*inputs, *parameters.values()])
        names = ["state", "history", "u", *parameters]
        results.append({"y": y, "final": after.state} | {f"gradient of {n}": g for n, g in zip(names, gradients)})
    errors = {name: relative_error(results[1][name], truth) for name, truth in results[0].items()}
    record(
        f"triton folded {str(dtype).removeprefix('torch.')}",
        f"{shape} {block_length}, {'noisy only' if noisy_only else 'both streams'}",
        errors,
    )
    assert max(errors.values()) <= TOLERANCE[dtype] * (4 if dtype == torch.bfloat16 else 1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "queries, capacity, lengths", [(1, 70, (0, 69)), (16, 4096, (0, 4000)), (256, 9000, (8000, 5))]
)
@pytest.mark.parametrize("heads, headdim", [(3, 32), (15, 128), (2, 256)])
def test_attention_reads_the_keys_that_a_row_has(
    heads, headdim, queries, capacity, lengths, dtype, device, record
) -> None:
    torch.manual_seed(queries)
    q = torch.randn(2, queries, heads, headdim, device=device).to(dtype).transpose(1, 2)
    k, v = (torch.randn(2, heads, capacity + 8, headdim, device=device).to(dtype)[:, :, :capacity] for _ in range(2))
    ages = torch.tensor(lengths, device=device)
    for row, age in enumerate(lengths):
        k[row, :, age + queries :] = v[row, :, age + queries :] = torch.nan
    read = (torch.arange(capacity, device=device) < ages[:, None] + queries)[:, None, None]
    exact = (x.double().nan_to_num() for x in (q, k, v))
    truth = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=read).transpose(1, 2)
    found = cached_attention.attend(q, k, v, ages)
    errors = {"y": relative_error(found, truth)}
    record(f"attention {str(dtype).removeprefix('torch.')}", f"{queries} of {capacity}, {heads} x {headdim}", errors)
    assert errors["y"] <= TOLERANCE[dtype]


def model_of(architecture: str, device: torch.device) -> Denoiser:
    torch.manual_seed(0)
    shape = {"d_model": 128, "depth": 3, "d_state": 16, "headdim": 32, "attention_headdim": 32, "cond_dim": 8}
    config = ModelConfig(
        architecture, vocab_size=MASK + 1, attention_every=2, block_lengths=(S,), edge_embedding=True, **shape
    )
    model = Denoiser(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.to(device).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pass_in_place_is_the_pass_after_a_cache(architecture: str, device: torch.device) -> None:
    model, tokens = model_of(architecture, device), 3 * S
    text = torch.randint(0, MASK - 1, (2, tokens + 2 * S), device=device)
    cache = model.commit(text[:, :tokens], model.empty_cache(2), S)
    into, sigma = model.empty_cache(2, tokens + 4 * S), torch.zeros(2, device=device)
    into.set_rows(torch.arange(2, device=device), cache)
    commit = torch.tensor([True, False], device=device)
    with torch.no_grad():
        for room in (tokens + 2 * S, tokens + 4 * S):  # the second pass reads what the first one committed
            block = text[:, tokens : tokens + S]
            logits = model.head(model.hidden_in_place(block, sigma, into, commit, room))[..., : MASK + 1]
            torch.testing.assert_close(logits, model(block, sigma, cache=cache), atol=2e-3, rtol=2e-3)
            rows = model.commit(block, cache, S).rows([0]), cache.rows([1])
            cache = type(cache).join(rows)
    assert into.lengths.tolist() == [tokens + 2 * S, tokens]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [16, 65, 256, 600])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pass_in_place_is_the_plain_pass_in_float64(architecture, length, dtype, device, record) -> None:
    """By products and kernels, after a cache that is not empty, the block of one of two rows being committed."""
    shape = {"d_model": 384, "depth": 2, "d_state": 128, "headdim": 64, "attention_headdim": 64, "cond_dim": 32}
    torch.manual_seed(length)
    model = Denoiser(ModelConfig(architecture, vocab_size=MASK + 1, attention_every=1, block_lengths=(S,), **shape))
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model = cast_matrices(model.to(device).eval(), dtype)
    exact, tokens = copy.deepcopy(model).double(), 200
    cache, plain = (one.empty_cache(2, tokens + length) for one in (model, exact))
    for own, other in zip(cache.layers, plain.layers, strict=True):
        for into, double in zip(vars(own).values(), vars(other).values(), strict=True):
            into.normal_()
            double.copy_(into)
    ids, sigma = torch.randint(0, MASK, (2, length), device=device), torch.rand(2, device=device)
    commit = torch.tensor([False, True], device=device)
    for one in (cache, plain):
        one.lengths.copy_(torch.tensor([tokens, 7]))
    with torch.no_grad():
        truth = exact.hidden_in_place(ids, sigma.double(), plain, commit)
        poison([truth])
        errors = {"hidden": relative_error(model.hidden_in_place(ids, sigma, cache, None), truth)}
        committed = model.hidden_in_place(ids, sigma, cache, commit)
    errors["hidden, committed"] = relative_error(committed, truth)
    for i, (own, other) in enumerate(zip(cache.layers, plain.layers, strict=True)):
        for name, found in vars(own).items():
            errors[f"{name} {i}"] = relative_error(found, getattr(other, name))
    record(f"pass in place {str(dtype).removeprefix('torch.')}", f"{architecture} {length}", errors)
    assert cache.lengths.tolist() == [tokens, 7 + length]
    assert max(errors.values()) <= TOLERANCE[dtype] * (4 if dtype == torch.bfloat16 else 1)


def written(model: object, strategy: str, canvas: Canvas, temperature: float = 0.7) -> Tensor:
    config = SamplerConfig(
        strategy, steps=48, block_length=S, block_start="zero", threshold=0.05, temperature=temperature
    )
    sampler = Sampler(config, get_schedule("log-linear"), MASK)
    denoiser = CachedDenoiser(model, S)  # type: ignore[arg-type]
    assert denoiser.unsupported_reason(config, sampler.start(canvas)) is None
    return generate_counted(sampler, denoiser, canvas)[0]


@pytest.mark.parametrize("strategy", graphs.STRATEGIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_passes_write_what_launched_ones_write(
    architecture: str, strategy: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(architecture, device)
    ids = torch.full((8 * S,), MASK, device=device)
    ids[: S + 3] = torch.arange(S + 3, device=device)
    canvas = Canvas(ids, ids != MASK, MASK)
    recorded = written(model, strategy, canvas)
    again = written(model, strategy, canvas)  # by the graphs that are kept
    graphs.clear_cache(model)
    init = graphs.BlockGraph.__init__
    monkeypatch.setattr(
        graphs.BlockGraph, "__init__", lambda self, *a: init(self, *a) or setattr(self, "records", False)
    )
    launched = written(model, strategy, canvas)
    assert torch.equal(recorded, launched) and torch.equal(again, launched)
    assert not (launched == MASK).any() and torch.equal(launched[0, : S + 3], ids[: S + 3])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_engine_writes_in_blocks(architecture: str, device: torch.device) -> None:
    """Compiled blocks in bfloat16: a whole text, and hidden states close to those of the model."""
    model = model_of(architecture, device)
    ids = torch.full((6 * S,), MASK, device=device)
    block, sigma = torch.randint(0, MASK, (2, S), device=device), torch.ones(2, device=device)
    commit = torch.zeros(2, dtype=torch.bool, device=device)
    with torch.no_grad():
        expected = model.hidden_in_place(block, sigma, model.empty_cache(2, S), commit)
        engine = compile_denoiser(model)
        found = engine.hidden_in_place(block, sigma, engine.empty_cache(2, S), commit)
    assert (found.float() - expected).norm() < 0.05 * expected.norm()
    assert not (written(engine, "threshold", Canvas(ids, ids != MASK, MASK)) == MASK).any()
