"""What a denoiser is: bidirectional, independent in its directions, the identity at the start."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diffuapriel.config import ARCHITECTURES, PRESETS, ModelConfig, preset
from diffuapriel.model import Denoiser
from diffuapriel.model.attention import Attention, rotary_angles
from diffuapriel.model.denoiser import Block
from diffuapriel.model.layers import Modulation, rms_norm
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops.ssd import ssd
from diffuapriel.options import options_of


def small_config(architecture: str = "diffuapriel", **overrides) -> ModelConfig:
    shape = {"d_model": 32, "depth": 3, "d_state": 8, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    return ModelConfig(architecture=architecture, **{"vocab_size": 20, **shape, **overrides})


def awake(model: nn.Module) -> nn.Module:
    """The model in float64 with its zero-initialised layers drawn at random: what training would make of it."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.double()


def one_direction(mixer: BidirectionalMamba2, k: int, u: Tensor) -> Tensor:
    """Mamba-2 of direction k alone, causal, as its paper writes it, with a library convolution."""
    c = mixer.config
    z, xBC, dt = (u @ mixer.in_proj.weight.unflatten(0, (2, -1))[k].T).split(
        [c.d_inner, c.d_inner + 2 * c.n_groups * c.d_state, c.n_heads], dim=-1
    )
    padded = nn.functional.pad(xBC.transpose(1, 2), (c.d_conv - 1, 0))
    taps = mixer.conv_weight[k].T[:, None]  # (channels, 1, taps)
    xBC = nn.functional.silu(
        nn.functional.conv1d(padded, taps, mixer.conv_bias[k], groups=xBC.shape[-1]).transpose(1, 2)
    )
    x, B, C = xBC.split([c.d_inner, c.n_groups * c.d_state, c.n_groups * c.d_state], dim=-1)
    y = ssd(
        x.unflatten(-1, (c.n_heads, c.headdim)),
        nn.functional.softplus(dt + mixer.dt_bias[k]),
        -mixer.A_log[k].exp(),
        B.unflatten(-1, (c.n_groups, c.d_state)),
        C.unflatten(-1, (c.n_groups, c.d_state)),
        mixer.D[k],
        backend="recurrent",
    )
    assert isinstance(y, Tensor)
    y = rms_norm(y.flatten(2) * nn.functional.silu(z), mixer.norm_weight[k])
    return y @ mixer.out_proj.weight[:, k * c.d_inner : (k + 1) * c.d_inner].T


@pytest.mark.parametrize("n_groups", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 37])
def test_the_packed_mixer_is_two_mamba2_one_of_them_flipped_added(length: int, n_groups: int) -> None:
    torch.manual_seed(0)
    mixer = BidirectionalMamba2(small_config(n_groups=n_groups)).double()
    u = torch.randn(2, length, 32, dtype=torch.float64)
    expected = one_direction(mixer, 0, u) + one_direction(mixer, 1, u.flip(1)).flip(1)
    assert torch.allclose(mixer(u), expected, rtol=0, atol=1e-6)  # softplus of dt runs in float32


def test_swapping_the_directions_and_reversing_the_text_reverses_the_output() -> None:
    torch.manual_seed(0)
    mixer, swapped = (BidirectionalMamba2(small_config()) for _ in range(2))
    swapped.in_proj.weight.data = mixer.in_proj.weight.data.unflatten(0, (2, -1)).flip(0).flatten(0, 1)
    swapped.out_proj.weight.data = mixer.out_proj.weight.data.unflatten(1, (2, -1)).flip(1).flatten(1, 2)
    for name in ("conv_weight", "conv_bias", "dt_bias", "A_log", "D", "norm_weight"):
        getattr(swapped, name).data = getattr(mixer, name).data.flip(0)
    u = torch.randn(2, 37, 32)
    assert torch.allclose(swapped(u.flip(1)).flip(1), mixer(u), atol=1e-5)


def test_the_two_directions_share_no_parameter() -> None:
    torch.manual_seed(0)
    mixer = BidirectionalMamba2(small_config())
    mixer.out_proj.weight.data[:, 64:] = 0  # silence the reverse direction
    mixer(torch.randn(1, 9, 32)).square().sum().backward()
    for name in ("conv_weight", "conv_bias", "dt_bias", "A_log", "D", "norm_weight"):
        gradient = getattr(mixer, name).grad
        assert gradient[0].any() and not gradient[1].any()
    assert not mixer.in_proj.weight.grad.unflatten(0, (2, -1))[1].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_token_moves_the_first_logits_and_the_first_the_last(architecture: str) -> None:
    torch.manual_seed(0)
    model = awake(Denoiser(small_config(architecture)))
    ids = torch.randint(0, 18, (1, 70))
    sigma = torch.tensor([0.5])
    reference = model(ids, sigma)
    for changed, watched in ((-1, 0), (0, -1)):
        other = ids.clone()
        other[0, changed] = (ids[0, changed] + 1) % 18
        assert (model(other, sigma) - reference)[0, watched].abs().max() > 1e-9


@pytest.mark.parametrize("kind", ["mamba", "attention"])
def test_a_zero_initialised_adaln_makes_the_block_the_identity(kind: str) -> None:
    torch.manual_seed(0)
    block = Block(small_config("diffuapriel-h"), kind)
    modulation = Modulation(cond_dim=8, d_model=32, count=6)(torch.randn(2, 8))
    x = torch.randn(2, 9, 32)
    assert torch.equal(block(x, modulation, rotary_angles(9, 16, torch.device("cpu"))), x)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_reads_the_hidden_states(architecture: str) -> None:
    config = small_config(architecture)
    torch.manual_seed(0)
    model = Denoiser(config)
    ids, sigma = torch.randint(0, config.mask_id, (2, 9)), torch.tensor([0.2, 1.5])
    hidden = model.hidden(ids, sigma)
    assert hidden.shape == (2, 9, config.d_model)
    assert torch.equal(model.head(hidden)[..., : config.vocab_size], model(ids, sigma))


def test_attention_knows_the_order_of_tokens() -> None:
    torch.manual_seed(0)
    attention = Attention(small_config("diffutran"))
    rotary = rotary_angles(6, attention.headdim, torch.device("cpu"))
    u = torch.randn(1, 6, 32)
    order = [0, 2, 1, 3, 4, 5]
    assert not torch.allclose(attention(u[:, order], rotary), attention(u, rotary)[:, order], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_a_scan_knows_where_a_text_of_masks_begins(architecture: str) -> None:
    model = awake(Denoiser(small_config(architecture)))
    masks = torch.full((1, 30), model.config.mask_id)
    logits = model(masks, torch.tensor([5.0]))[0]
    assert torch.allclose(logits, logits[:1].expand_as(logits), atol=1e-9) == (architecture == "diffutran")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_an_edge_embedding_every_architecture_knows_where_a_text_begins_and_ends(architecture: str) -> None:
    torch.manual_seed(0)
    model = awake(Denoiser(small_config(architecture, edge_embedding=True)))
    masks = torch.full((1, 30), model.config.mask_id)
    logits = model(masks, torch.tensor([5.0]))[0]
    distances = (logits[:, None] - logits).abs().amax(-1) + torch.eye(30)
    assert distances.min() > 1e-6


def test_only_the_first_and_the_last_position_have_an_edge_embedding() -> None:
    edges = Denoiser(small_config(edge_embedding=True)).edges
    assert edges is not None
    assert torch.equal(edges(1)[0], (edges.first + edges.last)[None])
    assert torch.equal(edges(4)[0], torch.stack([edges.first, 0 * edges.first, 0 * edges.first, edges.last]))


def test_a_configuration_without_the_field_has_no_edge_embedding_and_new_ones_have() -> None:
    written = small_config().to_dict()
    del written["edge_embedding"]
    assert not ModelConfig.from_dict(written).edge_embedding
    assert all(preset(name, architecture).edge_embedding for name in PRESETS for architecture in ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_on_chosen_positions_gives_the_same_logits(architecture: str) -> None:
    torch.manual_seed(0)
    model = awake(Denoiser(small_config(architecture)))
    ids, sigma = torch.randint(0, 20, (3, 11)), torch.tensor([0.1, 1.0, 5.0])
    positions = torch.rand(3, 11) < 0.5
    logits = model(ids, sigma)
    assert logits.shape == (3, 11, 20)
    assert torch.allclose(model(ids, sigma, positions), logits[positions], atol=1e-9)


def test_gradients_at_chosen_positions_repeat_bit_for_bit_with_several_threads() -> None:
    torch.manual_seed(0)
    model = Denoiser(preset("nano", "diffuapriel", depth=1, expand=1))  # wide enough for PyTorch to share the work out
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    ids, where = torch.randint(0, 4096, (16, 64)), torch.rand(16, 64) < 0.6
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = []
        for _ in range(6):
            model.zero_grad()
            model(ids, torch.linspace(0.1, 3.0, 16), where).square().mean().backward()
            found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for later in found[1:] for a, b in zip(found[0], later))


def test_time_conditioning_can_be_switched_off() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (1, 5))
    for on in (True, False):
        model = awake(Denoiser(small_config(time_conditioning=on)))
        assert torch.equal(model(ids, torch.tensor([0.1])), model(ids, torch.tensor([4.0]))) is not on


def test_a_model_that_is_not_told_the_level_begins_with_the_mean_modulation_of_one_that_is() -> None:
    torch.manual_seed(0)
    source, model = (awake(Denoiser(small_config(time_conditioning=told))) for told in (True, False))
    model.init_from(source)
    t = (torch.arange(1000) + 0.5) / 1000
    mean = source.modulation.linear(source.time_embedding(-torch.log1p(-t))).mean(0)
    assert torch.allclose(model.levels(torch.tensor([3.0]))[0], mean, atol=1e-9)
    others = {name for name, p in source.named_parameters() if not torch.equal(p, dict(model.named_parameters())[name])}
    assert others == {"modulation.linear.bias"}


@pytest.mark.parametrize(("before", "now"), [(True, True), (False, False), (False, True)])
def test_otherwise_a_model_begins_as_its_source_at_every_level(before: bool, now: bool) -> None:
    torch.manual_seed(0)
    source, model = (awake(Denoiser(small_config(time_conditioning=told))) for told in (before, now))
    model.init_from(source)
    ids, sigma = torch.randint(0, 20, (2, 9)), torch.tensor([0.1, 4.0])
    assert torch.allclose(model(ids, sigma), source(ids, sigma), atol=1e-12)
    model(ids, sigma).square().mean().backward()
    assert model.modulation.linear.weight.grad.any(), "it can learn the levels"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_of_a_batch_do_not_mix(architecture: str) -> None:
    torch.manual_seed(0)
    model = awake(Denoiser(small_config(architecture)))
    ids, sigma = torch.randint(0, 20, (3, 40)), torch.tensor([0.1, 1.0, 5.0])
    assert torch.allclose(model(ids, sigma)[1:2], model(ids[1:2], sigma[1:2]), atol=1e-9)


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_the_three_architectures_have_equal_parameters_with_whole_words_too(name: str) -> None:
    counts = [preset(name, each, tokenizer="tales-words").parameters for each in ARCHITECTURES]
    assert max(counts) / min(counts) < 1.02


@pytest.mark.parametrize("name", PRESETS)
def test_the_three_architectures_have_equal_parameters_within_two_percent(name: str) -> None:
    counts = [preset(name, architecture).parameters for architecture in ARCHITECTURES]
    assert max(counts) / min(counts) < 1.02
    budget = {"240m": 240e6, "0.5b": 0.5e9, "1.3b": 1.3e9}.get(name)
    assert budget is None or all(abs(count / budget - 1) < 0.05 for count in counts)


@given(
    architecture=st.sampled_from(ARCHITECTURES),
    heads=st.integers(1, 3),
    **{name: st.integers(1, 9) for name in ("depth", "vocab_size", "d_state", "n_groups", "d_conv", "expand")},
    attention_every=st.integers(1, 4),
    cond_dim=st.integers(1, 40),
    edge_embedding=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_parameters_by_arithmetic_are_those_of_the_model(heads: int, n_groups: int, vocab_size: int, **shape) -> None:
    d_model = 16 * heads * n_groups
    shape |= {"d_model": d_model, "n_groups": n_groups, "vocab_size": 40 * vocab_size, "headdim": 16}
    config = ModelConfig(attention_headdim=16, **shape)
    with torch.device("meta"):
        model = Denoiser(config)
    assert config.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ModelConfig) if f.type == "int"])
def test_no_size_is_without_bound(field: str) -> None:
    for value in (2**20 + 1, 10**9, 10**30):
        with pytest.raises(ValueError, match=rf"{field} is .*; it must be a whole number from 1 to [\d,]+$"):
            small_config("diffuapriel-h", **{field: value})


def test_sizes_within_their_bounds_may_still_make_too_large_a_model() -> None:
    largest = {"d_model": 65_536, "depth": 1_000, "expand": 64, "cond_dim": 65_536}
    with pytest.raises(ValueError, match=r"make [\d,]{16,} parameters; permitted: up to 100,000,000,000$"):
        small_config(**largest)


@given(depth=st.integers(1, 60), every=st.integers(1, 9))
def test_the_hybrid_spreads_its_attention_over_the_depth(depth: int, every: int) -> None:
    kinds = small_config("diffuapriel-h", depth=depth, attention_every=every).layer_kinds
    runs = "".join(kind[0] for kind in kinds).split("a")
    assert len(kinds) == depth
    assert runs[-1] == ""  # attention closes every run of Mamba blocks, the last one too
    assert kinds.count("attention") == max(1, depth // (every + 1))
    lengths = [len(run) for run in runs[:-1]]
    assert max(lengths) - min(lengths) <= 1  # evenly
    assert depth <= every or min(lengths) >= every


@given(depth=st.integers(1, 60), every=st.integers(1, 9))
def test_early_and_late_attention_is_as_much_as_spread(depth: int, every: int) -> None:
    def kinds(placement: str) -> tuple[str, ...]:
        config = small_config("diffuapriel-h", depth=depth, attention_every=every, attention_placement=placement)
        return config.layer_kinds

    assert kinds("early") == tuple(reversed(kinds("late")))
    assert sorted(kinds("spread")) == sorted(kinds("early")) == list(kinds("early"))


def test_a_configuration_survives_json_and_refuses_strangers() -> None:
    config = preset("nano", "diffuapriel-h")
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"unknown fields.*colour"):
        ModelConfig.from_dict({**config.to_dict(), "colour": 1})
    with pytest.raises(ValueError, match=r"missing fields.*depth"):
        ModelConfig.from_dict({k: v for k, v in config.to_dict().items() if k != "depth"})


@settings(max_examples=60)
@given(
    field=st.sampled_from([f.name for f in dataclasses.fields(ModelConfig)]),
    value=st.sampled_from([0, -1, 1.5, float("nan"), None, "x", [], True]),
)
def test_every_field_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    declared = options_of(ModelConfig).get(field)
    legal = value == [] if declared is None else declared.kind is bool and value is True
    if legal:
        return
    with pytest.raises(ValueError, match=field):
        ModelConfig.from_dict({**small_config().to_dict(), field: value})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"headdim": 48}, "not a multiple of headdim 48"),
        ({"n_groups": 3}, "n_groups = 3"),
        ({"architecture": "diffutran", "attention_headdim": 12}, "not a multiple of attention_headdim 12"),
        ({"attention_headdim": 7}, "must be even"),
    ],
)
def test_shapes_that_do_not_divide_are_refused(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict({**small_config().to_dict(), **overrides})


@pytest.mark.parametrize(
    ("ids", "sigma", "positions", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2), None, "ids are"),
        (torch.zeros(3, dtype=torch.int64), torch.zeros(1), None, "ids are"),
        (torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2), None, "ids are"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3), None, "sigma has shape"),
        (
            torch.zeros(2, 3, dtype=torch.int64),
            torch.zeros(2),
            torch.ones(2, 2, dtype=torch.bool),
            "positions are",
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name(ids: Tensor, sigma: Tensor, positions: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoiser(small_config())(ids, sigma, positions)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'huge'; permitted: nano"):
        preset("huge", "diffuapriel")
    with pytest.raises(ValueError, match=r"'rnn'; permitted: diffuapriel"):
        preset("nano", "rnn")
