"""Which token goes in: exact draws in float64, and filters with the right support."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel.sampling import tokens as draw
from diffuapriel.sampling.config import SamplerConfig

P = torch.tensor([0.05, 0.4, 0.0, 0.3, 0.15, 0.1], dtype=torch.float64)
V = len(P)
LAST = math.nextafter(1.0, 0.0)  # the largest uniform number


def logits_of(p: torch.Tensor, mask_logit: float = 9.0) -> torch.Tensor:
    """(1, V + 1): an arbitrary constant is added, and [MASK] gets the largest logit of all."""
    return torch.cat([p.log() + 3.7, torch.tensor([mask_logit], dtype=p.dtype)])[None]


def support(**options) -> set[int]:
    """The tokens that can come out, found with 2,001 evenly spaced uniforms."""
    u = torch.linspace(0, LAST, 2001, dtype=torch.float64)
    tokens, _ = draw.sample_tokens(logits_of(P).expand(len(u), -1), V, u, SamplerConfig(**options))
    return set(tokens.tolist())


def shares(**options) -> torch.Tensor:
    """The share of the uniforms in [0, 1) that give each token: its probability."""
    n = 10_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, _ = draw.sample_tokens(logits_of(P).expand(n, -1), V, u, SamplerConfig(**options))
    return torch.bincount(tokens, minlength=V) / n


def test_draws_have_the_probabilities_of_the_distribution():
    torch.testing.assert_close(shares(), P.float(), atol=2e-4, rtol=0)


def test_temperature_sharpens_and_flattens():
    for temperature in (0.5, 2.0):
        expected = P ** (1 / temperature)
        torch.testing.assert_close(
            shares(temperature=temperature), (expected / expected.sum()).float(), atol=2e-4, rtol=0
        )


def test_temperature_zero_takes_the_best_token():
    assert support(temperature=0.0) == {1}
    assert support(temperature=1e-300) == {1}


def test_top_k_keeps_the_k_best():
    assert support(top_k=1) == {1}
    assert support(top_k=2) == {1, 3}
    assert support(top_k=3) == {1, 3, 4}
    assert support(top_k=100) == {0, 1, 3, 4, 5}


def test_top_k_keeps_exactly_k_of_equals():
    assert int((draw.keep_top_k(torch.ones(1, 9), 4) > 0).sum()) == 4


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    assert support(top_p=0.01) == {1}
    assert support(top_p=0.4 - 1e-9) == {1}
    assert support(top_p=0.41) == {1, 3}
    assert support(top_p=0.71) == {1, 3, 4}
    assert support(top_p=1.0) == {0, 1, 3, 4, 5}


def test_filters_keep_the_proportions_of_what_stays():
    torch.testing.assert_close(shares(top_k=2)[[1, 3]], torch.tensor([4 / 7, 3 / 7]), atol=2e-4, rtol=0)
    torch.testing.assert_close(shares(top_p=0.5)[[1, 3]], torch.tensor([4 / 7, 3 / 7]), atol=2e-4, rtol=0)


def test_temperature_comes_before_top_p():
    # At temperature 0.25 the best token holds 0.4^4 / (0.4^4 + 0.3^4 + ...) = 0.74 of the probability.
    assert support(temperature=0.25, top_p=0.7) == {1}
    assert support(temperature=1.0, top_p=0.7) == {1, 3}


def test_the_repetition_penalty_lowers_what_is_already_there():
    seen = torch.zeros(1, V, dtype=torch.bool)
    seen[0, 1] = True
    u = torch.tensor([0.5], dtype=torch.float64)
    config = SamplerConfig(temperature=0.0, repetition_penalty=2.0)
    tokens, (probability, *_) = draw.sample_tokens(logits_of(P), V, u, config, seen)
    assert tokens.item() == 3  # 0.4^2 = 0.16 is less than 0.3
    torch.testing.assert_close(probability, P[3:4])  # told is the denoiser's own probability

    x = draw.relative(logits_of(P), V)
    log_p = draw.penalize(x, draw.weights_(x.clone()), seen, 2.0)
    torch.testing.assert_close(log_p[0].exp()[[1, 3, 4]], torch.tensor([0.16, 0.3, 0.15], dtype=torch.float64))


def test_the_repetition_penalty_does_not_depend_on_the_zero_of_the_logits():
    seen = torch.ones(1, V, dtype=torch.bool)
    results = []
    for shift in (-50.0, 0.0, 50.0):
        x = draw.relative(logits_of(P) + shift, V)
        results.append(draw.penalize(x, draw.weights_(x.clone()), seen, 1.5))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[2], results[1])


@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-300, 1e-17, 0.1, 0.5, 1.0, 1.0]), min_size=1, max_size=12).filter(any),
    st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, LAST]),
)
@settings(max_examples=300)
def test_a_token_of_probability_zero_is_never_drawn(w, u):
    weights = torch.tensor([w], dtype=torch.float64)
    token = draw.inverse_cdf(weights, torch.tensor([u], dtype=torch.float64)).item()
    assert 0 <= token < len(w) and w[token] > 0


def test_the_rare_end_of_a_distribution_is_reached():
    # Gumbel noise from float32 uniforms ends near 16.6: a token of probability 1e-12 would never come.
    weights = torch.tensor([[1.0, 1e-12]])
    inside = torch.tensor([1 - 5e-13], dtype=torch.float64)
    assert draw.inverse_cdf(weights, inside).item() == 1
    assert draw.inverse_cdf(weights, torch.tensor([1 - 2e-12], dtype=torch.float64)).item() == 0


def test_scores_are_those_of_the_distribution_without_mask():
    rows = logits_of(P)
    best = torch.sort(P, descending=True).values
    entropy = -(P[P > 0] * P[P > 0].log()).sum()
    torch.testing.assert_close(draw.top_probability(rows, V), best[:1])
    torch.testing.assert_close(draw.margin(rows, V), best[:1] - best[1:2])
    torch.testing.assert_close(draw.entropy(rows, V), entropy[None])


def test_a_tie_for_the_first_place_has_no_margin():
    rows = torch.tensor([[2.0, 2.0, 0.0, 9.0], [1.0, 1.0, 1.0, 9.0], [5.0, -torch.inf, -torch.inf, 9.0]])
    torch.testing.assert_close(draw.margin(rows, 3), torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(draw.entropy(rows, 3)[1:], torch.tensor([math.log(3), 0.0]))


def test_the_explanation_names_the_best_five_before_any_filter():
    u = torch.tensor([0.0], dtype=torch.float64)
    tokens, (probability, entropy, ids, top) = draw.sample_tokens(logits_of(P), V, u, SamplerConfig(top_k=1))
    assert tokens.tolist() == [1] and ids.tolist() == [[1, 3, 4, 5, 0]]
    torch.testing.assert_close(probability, P[1:2])
    torch.testing.assert_close(top[0], P[[1, 3, 4, 5, 0]])
    assert entropy.item() == pytest.approx(-(P[P > 0] * P[P > 0].log()).sum().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_every_precision_stay_in_range(dtype):
    rows = (torch.randn(40, 65, generator=torch.Generator().manual_seed(0)) * 20).to(dtype)
    for score, high in ((draw.top_probability, 1), (draw.margin, 1), (draw.entropy, math.log(64) + 1e-5)):
        values = score(rows, 64)
        assert values.dtype in (torch.float32, torch.float64)
        assert (values >= -1e-5).all() and (values <= high).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_distribution_are_refused(bad):
    rows = torch.zeros(3, 5)
    rows[1, 2] = bad
    with pytest.raises(
        ValueError, match=r"NaN or infinity, or no permitted token at all, in 1 of 3 rows \(first: row 1"
    ):
        draw.top_probability(rows, 4)


def test_a_row_that_permits_only_mask_is_refused():
    rows = torch.full((2, 5), -torch.inf)
    rows[:, 4] = 1.0
    with pytest.raises(ValueError, match="no permitted token at all, in 2 of 2 rows"):
        draw.relative(rows, 4)


def test_scoring_leaves_the_logits_as_they_were():
    rows = torch.randn(6, 9)
    before = rows.clone()
    draw.top_probability(rows, 8), draw.margin(rows, 8), draw.entropy(rows, 8)
    draw.sample_tokens(rows, 8, torch.rand(6, dtype=torch.float64), SamplerConfig(top_k=3, top_p=0.5))
    assert torch.equal(rows, before)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5, "top_p": 0.8}, {"top_k": 3}], ids=str)
def test_likely_tokens_are_those_drawn_most_often(how: dict) -> None:
    ids, share = draw.likely_tokens(logits_of(P), V, SamplerConfig(**how), 4)
    drawn = shares(**how)
    assert share[0] == pytest.approx(drawn.topk(4).values.numpy(), abs=2e-4)
    assert drawn[ids[0]].numpy() == pytest.approx(share[0], abs=2e-4)


def test_at_temperature_0_the_likely_tokens_are_those_of_temperature_1() -> None:
    ids, share = draw.likely_tokens(logits_of(P), V, SamplerConfig(temperature=0.0), 3)
    assert ids.tolist() == [[1, 3, 4]] and share[0] == pytest.approx(P[[1, 3, 4]].numpy())
