"""Block diffusion: the cache is exact, one folded pass is the loop over blocks, and nothing looks ahead."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.model import Denoiser
from diffuapriel.model.blocks import Cache

BLOCKS = (1, 3, 16, 17, 63, 64, 65)
EOS, MASK = 18, 19


def awake(architecture: str, **changes) -> Denoiser:
    """A small denoiser in float64 whose zero-initialized layers are drawn at random, as training would make them."""
    torch.manual_seed(0)
    shape = {"d_model": 32, "depth": 3, "d_state": 8, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    model = Denoiser(ModelConfig(architecture, vocab_size=20, edge_embedding=True, **{**shape, **changes}))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def texts(blocks: int, block_length: int, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Clean ids and a corrupted copy, (rows, length), and a noise level per block, (rows, blocks)."""
    torch.manual_seed(block_length)
    clean = torch.randint(0, EOS, (rows, blocks * block_length))
    noisy = clean.masked_fill(torch.rand(clean.shape) < 0.5, MASK)
    return clean, noisy, 0.1 + torch.rand(rows, blocks, dtype=torch.float64)


def one_by_one(model: Denoiser, clean: Tensor, noisy: Tensor, sigma: Tensor, block_length: int) -> tuple[Tensor, Cache]:
    """Logits of the corrupted blocks, each after a cache of the clean ones before it: the definition."""
    cache, logits = model.empty_cache(len(clean)), []
    for b, (block, corrupted) in enumerate(zip(clean.split(block_length, 1), noisy.split(block_length, 1))):
        logits.append(model(corrupted, sigma[:, b], cache=cache))
        cache = model.commit(block, cache)
    return torch.cat(logits, dim=1), cache


def apart(a: Cache, b: Cache) -> float:
    pairs = zip(a.layers, b.layers, strict=True)
    return max((v - w).abs().max().item() for x, y in pairs for v, w in zip(vars(x).values(), vars(y).values()))


@pytest.mark.parametrize("block_length", BLOCKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_folded_pass_is_the_loop_over_blocks_and_so_are_its_gradients(architecture: str, block_length: int) -> None:
    model = awake(architecture, headdim=32 if block_length % 2 else 16)  # 292 or 296 outputs of in_proj: padded or not
    clean, noisy, sigma = texts(3 if block_length < 20 else 2, block_length)
    folded = model(noisy, sigma, clean=clean, block_length=block_length)
    loop, _ = one_by_one(model, clean, noisy, sigma, block_length)
    assert (folded - loop).abs().max() < 1e-12
    weight = torch.randn_like(folded)
    gradients = [
        torch.autograd.grad(logits, tuple(model.parameters()), weight, allow_unused=True) for logits in (folded, loop)
    ]
    for got, expected in zip(*gradients, strict=True):
        assert (got is None) == (expected is None)
        assert got is None or (got - expected).abs().max() < 1e-11 * (1 + expected.abs().max())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("block_length", BLOCKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_logits_are_those_of_a_pass_over_the_whole_text(
    architecture: str, block_length: int, dtype: torch.dtype, tolerance: float
) -> None:
    """At every block; the whole text is the committed one, run again from its start with the block behind it."""
    model = awake(architecture).to(dtype)
    clean, noisy, sigma = texts(3 if block_length < 20 else 2, block_length)
    cached, cache = one_by_one(model, clean, noisy, sigma.to(dtype), block_length)
    for b, corrupted in enumerate(noisy.split(block_length, 1)):
        written = clean[:, : b * block_length]
        before = model.commit(written, model.empty_cache(2), block_length) if b else model.empty_cache(2)
        again = model(corrupted, sigma[:, b].to(dtype), cache=before)
        assert (again - cached[:, b * block_length :][:, :block_length]).abs().max() < tolerance
    assert apart(model.commit(clean, model.empty_cache(2), block_length), cache) < tolerance


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_block_is_the_full_sequence_model(architecture: str) -> None:
    model = awake(architecture)
    clean, noisy, sigma = texts(1, 40)
    full = model(noisy, sigma[:, 0])
    assert (model(noisy, sigma[:, 0], cache=model.empty_cache(2)) - full).abs().max() < 1e-12
    assert (model(noisy, sigma, clean=clean, block_length=40) - full).abs().max() < 1e-12


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_sees_the_clean_past_and_its_own_corrupted_tokens_only(architecture: str) -> None:
    """Bit for bit: no later token, and no clean token of its own."""
    model, S, b = awake(architecture), 5, 2
    clean, noisy, sigma = texts(5, S)
    own = slice(b * S, (b + 1) * S)
    before = model(noisy, sigma, clean=clean, block_length=S)[:, own]
    for place in (b * S, b * S + 3, (b + 1) * S, 5 * S - 1):
        changed = clean.clone()
        changed[:, place] = (changed[:, place] + 1) % EOS
        assert torch.equal(model(noisy, sigma, clean=changed, block_length=S)[:, own], before)
    changed = noisy.clone()
    changed[:, (b + 1) * S :] = MASK
    changed[:, : b * S] = MASK
    assert torch.equal(model(changed, sigma, clean=clean, block_length=S)[:, own], before)
    for place in (0, b * S - 1):
        changed = clean.clone()
        changed[:, place] = (changed[:, place] + 1) % EOS
        assert not torch.equal(model(noisy, sigma, clean=changed, block_length=S)[:, own], before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_of_different_age_get_what_each_gets_alone(architecture: str) -> None:
    model, S = awake(architecture), 4
    clean, noisy, sigma = texts(4, S, rows=3)
    caches = [model.commit(clean[r : r + 1, : (r + 1) * S], model.empty_cache(1), S) for r in range(3)]
    together = Cache.join(caches)
    assert together.lengths.tolist() == [4, 8, 12] and not together.aligned
    for _ in range(2):  # also after a commit of the mixed batch
        logits = model(noisy[:, :S], sigma[:, 0], cache=together)
        for r, cache in enumerate(caches):
            alone = model(noisy[r : r + 1, :S], sigma[r : r + 1, 0], cache=cache)
            assert (logits[r : r + 1] - alone).abs().max() < 1e-12
        together = model.commit(clean[:, 2 * S :], together, S)
        caches = [model.commit(clean[r : r + 1, 2 * S :], cache, S) for r, cache in enumerate(caches)]


@pytest.mark.parametrize("size", [1, 3, 4])  # of the last block, which may be shorter
@pytest.mark.parametrize("finished", [0, 1, 2, 20])  # blocks to commit; 20 fill more than a chunk of the scan
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_commit_rides_along_with_the_first_pass_of_the_next_block(
    architecture: str, finished: int, size: int
) -> None:
    model, S = awake(architecture), 4
    clean, noisy, sigma = texts(finished + 2, S, rows=3)
    before = Cache.join([model.commit(clean[r : r + 1, : r * S], model.empty_cache(1), S) for r in (1, 2, 2)])
    done, block = clean[:, : finished * S], noisy[:, -size:]
    after = model.commit(done, before, S) if finished else before
    logits, cache = model.commit_and_denoise(torch.cat([done, block], 1), sigma[:, 0], cache=before, block_length=S)
    assert (logits - model(block, sigma[:, 0], cache=after)).abs().max() < 1e-12
    assert apart(cache, after) < 1e-12 and cache.lengths.tolist() == after.lengths.tolist()
    where = block == MASK
    chosen, _ = model.commit_and_denoise(torch.cat([done, block], 1), sigma[:, 0], where, cache=before, block_length=S)
    assert (chosen - logits[where]).abs().max() < 1e-12


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_window_keeps_the_last_keys_and_values_and_every_state(architecture: str) -> None:
    """Without attention nothing changes; with one layer of it, a window is a mask on the keys."""
    model, S = awake(architecture, depth=1), 4
    clean, noisy, sigma = texts(6, S)
    cache = model.commit(clean[:, : 5 * S], model.empty_cache(2), S)
    window = cache.last(2 * S)
    logits = model(noisy[:, :S], sigma[:, 0], cache=window)
    again = model.commit(clean[:, 5 * S :], window, S).last(2 * S)  # goes on, and stays as large
    assert again.bytes == window.bytes and again.lengths.tolist() == [6 * S] * 2
    if architecture == "diffuapriel":
        assert window is cache
    else:
        assert window.capacity == 2 * S and window.bytes < cache.bytes
        # Keys are rotated by their true positions, so what is left out is all that differs.
        changed = clean.clone()
        changed[:, : 3 * S] = (changed[:, : 3 * S] + 1) % EOS
        other = model.commit(changed[:, : 5 * S], model.empty_cache(2), S)
        assert (model(noisy[:, :S], sigma[:, 0], cache=other.last(2 * S)) - logits).abs().max() < 1e-12
        assert (model(noisy[:, :S], sigma[:, 0], cache=other) - logits).abs().max() > 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cache_is_never_changed_and_its_rows_can_be_taken(architecture: str) -> None:
    model, S = awake(architecture), 4
    clean, noisy, sigma = texts(3, S)
    cache = model.commit(clean[:, :S], model.empty_cache(2))
    kept = [tensor.clone() for layer in cache.layers for tensor in vars(layer).values()]
    first = model(noisy[:, :S], sigma[:, 0], cache=cache)
    model.commit(clean[:, S:], cache, S)
    assert all(torch.equal(a, b) for a, b in zip(kept, (t for layer in cache.layers for t in vars(layer).values())))
    assert torch.equal(model(noisy[:, :S], sigma[:, 0], cache=cache), first)
    branched = model(noisy[[1, 1], :S], sigma[[1, 1], 0], cache=cache.rows([1, 1]))
    assert (branched - first[[1, 1]]).abs().max() < 1e-12


def test_the_cache_of_the_pure_model_has_the_same_size_for_any_text() -> None:
    sizes = {}
    for architecture in ARCHITECTURES:
        model = awake(architecture)
        clean, _, _ = texts(8, 4)
        sizes[architecture] = [model.commit(clean[:, :n], model.empty_cache(2), 4).bytes for n in (4, 32)]
    assert sizes["diffuapriel"][0] == sizes["diffuapriel"][1]
    assert sizes["diffutran"][1] == 8 * sizes["diffutran"][0]
    assert sizes["diffuapriel-h"][0] < sizes["diffuapriel-h"][1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_on_chosen_positions_gives_the_same_logits(architecture: str) -> None:
    model = awake(architecture)
    clean, noisy, sigma = texts(3, 4)
    where = noisy == MASK
    for level in (sigma, sigma[:, 0]):
        logits = model(noisy, level, clean=clean, block_length=4)
        assert (model(noisy, level, where, clean=clean, block_length=4) - logits[where]).abs().max() < 1e-12


def test_time_conditioning_off_makes_the_cache_and_the_logits_independent_of_the_level() -> None:
    model = awake("diffuapriel-h", time_conditioning=False)
    clean, noisy, sigma = texts(3, 4)
    logits = model(noisy, sigma, clean=clean, block_length=4)
    assert torch.equal(model(noisy, 3 * sigma, clean=clean, block_length=4), logits)


@pytest.mark.parametrize("architecture", ["diffuapriel", "diffuapriel-h"])
def test_without_the_reverse_scan_mamba_never_looks_ahead(architecture: str) -> None:
    """Inside a block only attention does; one block is still the full-sequence model."""
    model = awake(architecture, block_lengths=(1, 6, 0), block_reverse=False)
    clean, noisy, sigma = texts(2, 6)
    folded = model(noisy, sigma, clean=clean, block_length=6)
    assert (folded - one_by_one(model, clean, noisy, sigma, 6)[0]).abs().max() < 1e-12
    full = model(noisy, sigma[:, 0])
    assert (model(noisy, sigma[:, 0], cache=model.empty_cache(2)) - full).abs().max() < 1e-12
    changed = noisy.clone()
    changed[:, -1] = (changed[:, -1] + 1) % EOS
    ahead = (model(changed, sigma[:, 0]) - full)[:, :-2].abs().max().item()  # the last position has its own edge
    assert (ahead == 0) == (architecture == "diffuapriel")
    with pytest.raises(ValueError, match="block_reverse is False"):
        ModelConfig(architecture, 32, 2, headdim=16, attention_headdim=16, block_reverse=False)


def test_calls_that_do_not_fit_are_refused() -> None:
    model = awake("diffuapriel")
    clean, noisy, sigma = texts(3, 4)
    with pytest.raises(ValueError, match="block_length is 5; it must divide the length, 12"):
        model(noisy, sigma[:, 0], clean=clean, block_length=5)
    with pytest.raises(ValueError, match=r"clean is \(2, 8\) torch.int64"):
        model(noisy, sigma[:, 0], clean=clean[:, :8], block_length=4)
    with pytest.raises(ValueError, match="block_length is 4; it goes with cache or clean"):
        model(noisy, sigma[:, 0], block_length=4)
    with pytest.raises(ValueError, match=r"sigma has shape \(2, 3\)"):
        model(noisy, sigma)
    with pytest.raises(ValueError, match="does not keep packed documents apart"):
        model(noisy, sigma[:, 0], document_ids=torch.zeros_like(noisy), clean=clean, block_length=4)
    config = dataclasses.replace(model.config, document_boundaries=True)
    with pytest.raises(ValueError, match="does not keep packed documents apart"):
        Denoiser(config)(noisy, sigma[:, 0].float(), cache=Denoiser(config).empty_cache(2))


@pytest.mark.parametrize(
    "committed, length, block_length", [(0, 7, 7), (8, 12, 4), (9, 11, 3), (48, 64, 16), (6, 7, 3)]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_short_passes_without_gradients_are_the_others(
    architecture: str, committed: int, length: int, block_length: int
) -> None:
    """A CPU computes them as products along the paths of their tokens; with gradients they are scans."""
    model = awake(architecture, n_groups=2)
    torch.manual_seed(length)
    cache = model.commit(torch.randint(0, EOS, (2, 5)), model.empty_cache(2))
    ids = torch.randint(0, EOS, (2, length)).index_fill(1, torch.arange(length - 1, length), MASK)
    logits, after = model.commit_and_denoise(ids, torch.ones(2).double(), cache=cache, block_length=block_length)
    with torch.no_grad():
        short, kept = model.commit_and_denoise(ids, torch.ones(2).double(), cache=cache, block_length=block_length)
    assert (short - logits).abs().max() < 1e-12 and apart(kept, after) < 1e-12
    assert int(kept.lengths[0]) == 5 + committed


@pytest.mark.parametrize(
    "finished, draft, blocks",
    [(5, 6, (7,)), (0, 3, (4,)), (4, 0, (1,)), (2, 1, ()), (0, 0, (5,)), (130, 20, (3,)), (3, 4, (5, 6, 1, 2, 4))],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("groups, reverse", [(1, True), (2, True), (1, False)])
def test_one_pass_verifies_a_draft_and_drafts_as_separate_passes_do(
    architecture: str, groups: int, reverse: bool, finished: int, draft: int, blocks: tuple[int, ...]
) -> None:
    """Rows of different age; a token of the draft sees those before it, the first block none and each one more."""
    shape = {"n_groups": groups, "block_reverse": reverse, "block_lengths": (1, 4)}
    model = awake(architecture, time_conditioning=False, **shape)
    torch.manual_seed(finished)
    past = Cache.join([model.commit(torch.randint(0, EOS, (1, n)), model.empty_cache(1), 1) for n in (3, 8)])
    ids, tokens, *noisy = (torch.randint(0, EOS, (2, n)) for n in (finished, draft, *blocks))
    for block in noisy:
        block[:, ::2] = MASK
    verified, drafted, after = model.verify_and_draft(ids, tokens, noisy, cache=past)
    cache = model.commit(ids, past, 1) if finished else past
    assert apart(after, cache) < 1e-12
    zero = torch.zeros(2, dtype=torch.float64)
    for i in range(draft + 1):
        if i < len(blocks):
            assert (drafted[i] - model(noisy[i], zero, cache=cache)).abs().max() < 1e-12
        if i < draft:
            mask = torch.full((2, 1), MASK)
            assert (verified[:, i] - model(mask, zero, cache=cache)[:, 0]).abs().max() < 1e-12
            cache = model.commit(tokens[:, i : i + 1], cache, 1)


def test_there_is_one_block_more_than_tokens_of_the_draft_at_most() -> None:
    model = awake("diffuapriel", time_conditioning=False, block_lengths=(1, 4))
    none, block = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="2 blocks; behind a draft of 0 tokens there are 1 at most"):
        model.verify_and_draft(none, none, [block, block], cache=model.empty_cache(1))


def test_a_pass_that_verifies_takes_a_model_that_is_not_told_the_noise_level() -> None:
    model, none = awake("diffuapriel"), torch.zeros(1, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="noise level"):
        model.verify_and_draft(none, none, [torch.zeros(1, 2, dtype=torch.int64)], cache=model.empty_cache(1))
