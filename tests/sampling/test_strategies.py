"""Which holes are filled, and when: each strategy against its paper, all of them against getting stuck."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel.config import SCHEDULES
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import (
    BLOCK_STARTS,
    BLOCKWISE,
    CONFIDENCES,
    FREE_OF_STEPS,
    ON_SCHEDULE,
    REMDM,
    STRATEGIES,
    SamplerConfig,
)
from diffuapriel.sampling.generate import generate_counted
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.strategies import num_transfer_tokens
from tests.sampling.models import Letters, Recorded, fixed_logits, untimed

DETERMINISTIC = ("low_confidence", "entropy", "margin", "threshold", "factor", "entropy_bound")
LOG_LINEAR = get_schedule("log-linear")


def run(config: SamplerConfig, denoiser, canvas: Canvas, schedule=LOG_LINEAR):
    return list(Sampler(config, schedule, canvas.mask_id).stream(denoiser, canvas))


def counts(frames) -> list[int]:
    return [len(frame.revealed) for frame in frames[1:]]


@st.composite
def situations(draw):
    """A canvas, options, a schedule, and logits with ties, minus infinities and enormous values."""
    length, vocab_size = draw(st.integers(1, 10)), draw(st.integers(2, 6))
    mask_id = vocab_size - 1
    given_tokens = draw(st.lists(st.none() | st.integers(0, mask_id - 1), min_size=length, max_size=length))
    ids = torch.tensor([mask_id if i is None else i for i in given_tokens])
    value = st.sampled_from([-math.inf, -1e30, -3.0, 0.0, 0.0, 0.5, 3.0, 80.0, 1e30])
    table = draw(
        st.lists(
            st.lists(value, min_size=vocab_size, max_size=vocab_size).filter(lambda row: max(row[:-1]) > -math.inf),
            min_size=length,
            max_size=length,
        )
    )
    strategy = draw(st.sampled_from(STRATEGIES))
    config = SamplerConfig(
        strategy=strategy,
        steps=draw(st.integers(1, 14)),
        block_length=draw(st.none() | st.integers(1, 12)),
        block_start=draw(st.sampled_from(BLOCK_STARTS)),
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 100.0])),
        top_k=draw(st.none() | st.integers(1, 8)),
        top_p=draw(st.none() | st.sampled_from([1e-9, 0.5, 1.0])),
        repetition_penalty=draw(st.sampled_from([0.1, 1.0, 10.0])),
        confidence=draw(st.sampled_from(CONFIDENCES)),
        alg_temp=draw(st.sampled_from([0.0, 1e-300, 0.3, 100.0])),
        threshold=draw(st.sampled_from([0.0, 0.5, 1.0])),
        factor=draw(st.sampled_from([0.0, 1.0, 100.0])),
        entropy_bound=draw(st.sampled_from([0.0, 0.5, 100.0])),
        remask_below=draw(st.sampled_from([0.0, 0.5, 1.0])),
        remask_cap=draw(st.sampled_from([0.0, 0.3, 1.0])),
        remask_rescale=draw(st.sampled_from([0.0, 0.3, 1.0])),
        t_on=draw(st.sampled_from([0.5, 0.55, 1.0])),
        t_off=draw(st.sampled_from([0.0, 0.05, 0.5])),
        alpha_on=draw(st.sampled_from([0.001, 0.9, 0.999])),
        seed=draw(st.integers(0, 2**63 - 1)),
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    logits = torch.tensor(table, dtype=dtype)[None]
    schedule = get_schedule(draw(st.sampled_from(list(SCHEDULES))))
    return Canvas(ids, ids != mask_id, mask_id), config, logits, schedule


@given(situations())
@settings(max_examples=250, deadline=None)
def test_every_run_ends_without_masks_within_its_bound_and_keeps_what_is_given(situation):
    canvas, config, logits, schedule = situation
    denoiser = Recorded(lambda ids: logits)
    frames = run(config, denoiser, canvas, schedule)
    mask_id, masks = canvas.mask_id, int(canvas.masked.sum())

    assert mask_id not in frames[-1].ids
    assert frames[-1].nfe == len(denoiser.asked) <= config.max_calls(masks, len(canvas))
    assert len(frames) - 1 <= max(config.steps, masks * (2 if config.mends else 1))
    for before, now in itertools.pairwise(frames):
        assert now.step == before.step + 1 and 0 <= now.t <= 1
        assert now.t <= before.t or ((config.block_length or config.mends) and now.remasked)  # t is the masked share
        assert not set(now.revealed) & set(now.remasked)
        for p, (old, new) in enumerate(zip(before.ids, now.ids)):
            if canvas.fixed[p]:
                assert new == old == canvas.ids[p]  # tokens once fixed never change
            elif p in now.revealed:
                assert old == mask_id != new and logits[0, p, new] > -math.inf
                assert now.confidence[p] is not None and now.entropy[p] is not None and p in now.top_k
            elif p in now.remasked:
                assert (config.strategy in REMDM or config.mends) and old != mask_id == new
                assert now.confidence[p] is None and now.entropy[p] is None
            else:
                assert old == new and now.confidence[p] == before.confidence[p]
        assert set(now.top_k) == set(now.revealed)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_head_is_asked_for_masked_positions_only(strategy):
    canvas = Canvas.from_text("ab[MASK:9]c", Letters())
    denoiser = fixed_logits(12, 8)
    frames = run(SamplerConfig(strategy, steps=5), denoiser, canvas)
    before = [frame for frame, after in itertools.pairwise(frames) if after.nfe > frame.nfe]
    assert len(before) == len(denoiser.asked)
    for frame, (ids, _, positions) in zip(before, denoiser.asked):
        assert tuple(ids[0].tolist()) == frame.ids
        assert positions[0].tolist() == [i == canvas.mask_id for i in frame.ids]


@pytest.mark.parametrize(("block_start", "begin"), [("prompt", 2), ("zero", 0)])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_block_is_full_before_the_next_begins_and_no_step_crosses_a_border(strategy, steps, block_start, begin):
    config = SamplerConfig(strategy, steps=steps, block_length=4, block_start=block_start, threshold=0.5)
    canvas = Canvas.from_text("ab[MASK:9]c", Letters())
    frames = run(config, fixed_logits(12, 8), canvas)
    for before, now in itertools.pairwise(frames):
        masked = [p for p, token in enumerate(before.ids) if token == canvas.mask_id]
        changed = {(p - begin) // 4 for p in (*now.revealed, *now.remasked)}
        block = (masked[0] - begin) // 4 if masked else 2
        assert changed <= ({block} if strategy not in REMDM else {block, block - 1}) and len(changed) <= 1
        assert changed or strategy in ON_SCHEDULE
    if strategy not in FREE_OF_STEPS:
        assert len(frames) - 1 <= max(steps, 3)
    if strategy in BLOCKWISE and strategy not in FREE_OF_STEPS:
        assert steps > 9 or len(frames) - 1 == max(steps, 3)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("strategy", ["ancestral", "remdm"])
def test_a_strategy_on_the_schedule_runs_once_over_it_in_each_block(strategy, name):
    """Two blocks and 12 steps: in each block, the masked share after k of its 6 steps is that of the schedule."""
    schedule, length = get_schedule(name), 400
    config = SamplerConfig(strategy, steps=12, block_length=length, remask_cap=0.02)
    frames = run(config, fixed_logits(2 * length, 4), Canvas.masks(2 * length, Letters(2)), schedule)
    for block in (0, 1):
        for k in range(1, 7):
            ids = frames[6 * block + k].ids[block * length : (block + 1) * length]
            share = 1 - float(schedule.alpha(torch.tensor([1 - k / 6], dtype=torch.float64))) if k < 6 else 0.0
            assert ids.count(3) / length == pytest.approx(share, abs=4 * math.sqrt(0.25 / length))


EOS = 6  # of Letters


def ends_at(place: int, length: int = 12) -> Recorded:
    """A model that is sure of an <|endoftext|> at one position, and of a letter everywhere else."""
    table = torch.zeros(length, 8)
    table[torch.arange(length), torch.arange(length) % 6] = 30.0
    table[place, EOS] = 60.0
    return Recorded(lambda ids: table.expand(len(ids), -1, -1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_text_ends_with_its_first_endoftext_and_costs_no_further_call(strategy):
    config = SamplerConfig(strategy, steps=12, block_length=4, stop_at_eos=True)
    model = ends_at(5)
    frames = run(config, model, Canvas.masks(12, Letters()))
    assert frames[-1].ids == (0, 1, 2, 3, 4, *[EOS] * 7)
    assert frames[-1].nfe == len(model.asked) <= 8, "none for the third block"
    assert all(set(frame.revealed) == set(frame.top_k) and max(frame.revealed, default=0) < 8 for frame in frames)
    assert frames[-1].confidence[5] is not None and frames[-1].confidence[6] is frames[-1].confidence[9] is None


def test_a_given_endoftext_or_given_text_behind_it_does_not_end_a_text():
    config = SamplerConfig("threshold", block_length=4, stop_at_eos=True)
    ids = torch.tensor([0, EOS, *[7] * 10])
    assert run(config, ends_at(11), Canvas(ids, ids != 7, 7))[-1].ids[-2:] == (4, EOS)
    ids = torch.tensor([*[7] * 11, 2])
    frames = run(config, ends_at(5), Canvas(ids, ids != 7, 7))
    assert frames[-1].ids == (0, 1, 2, 3, 4, EOS, 0, 1, 2, 3, 4, 2)


def test_rows_of_a_batch_end_at_different_blocks_as_they_would_alone():
    config = SamplerConfig("low_confidence", steps=12, block_length=4, block_start="zero", stop_at_eos=True)

    def shifted(ids):
        return torch.stack([ends_at(1 + 4 * int(row[0])).logits_of(row[None])[0] for row in ids])

    canvases = []
    for first in (0, 1, 2):
        ids = torch.tensor([first, *[7] * 11])
        canvases.append(Canvas(ids, ids != 7, 7))
    sampler = Sampler(config, LOG_LINEAR, 7)
    texts, calls = generate_counted(sampler, Recorded(shifted), canvases)
    assert (texts == EOS).sum(1).tolist() == [11, 7, 3] and calls == [3, 7, 11]
    for row, canvas in enumerate(canvases):
        alone, passes = generate_counted(sampler, Recorded(shifted), canvas, first_row=row)
        assert torch.equal(alone[0], texts[row]) and passes == [calls[row]]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_the_steps_of_blocks_add_up_whatever_their_sizes(sizes, steps, seed):
    """Every step reveals something, and all is full after `steps`, or after a step per block if these are more."""
    free = np.array([sizes])
    masked, used = free.copy(), 0
    while masked.any():
        count = num_transfer_tokens(masked, free, used, steps)[0]
        current = int((masked[0] > 0).argmax())
        assert 1 <= count <= masked[0, current]
        masked[0, current] -= count
        used += 1
    assert used <= max(steps, sum(size > 0 for size in sizes))


def test_a_person_who_clears_a_finished_block_does_not_have_it_filled_at_once():
    masked, free = np.array([[4, 0, 4]]), np.array([[4, 4, 4]])
    assert num_transfer_tokens(masked, free, step=8, steps=12).tolist() == [2]  # two of the four steps left


def test_blocks_change_the_order_and_a_block_as_long_as_the_canvas_changes_nothing():
    def order(**options):
        config = SamplerConfig("low_confidence", steps=12, **options)
        return [f.revealed for f in run(config, fixed_logits(12, 8), Canvas.masks(12, Letters()))]

    assert order() == order(block_length=12) != order(block_length=3)
    assert order(block_length=1)[1:] == [(p,) for p in range(12)]


def test_a_rival_is_sought_in_the_open_block_only():
    logits = fixed_logits(8, 8)
    frames = run(SamplerConfig("low_confidence", steps=8, block_length=2), logits, Canvas.masks(8, Letters()))
    assert [f.runner_up is None for f in frames[1:]] == [False, True] * 4


@pytest.mark.parametrize("strategy", ["low_confidence", "entropy", "margin", "random"])
def test_the_remainder_is_revealed_in_the_early_steps(strategy):
    assert counts(run(SamplerConfig(strategy, steps=4), fixed_logits(10, 8), Canvas.masks(10, Letters()))) == [
        3,
        3,
        2,
        2,
    ]
    assert counts(run(SamplerConfig(strategy, steps=9), fixed_logits(3, 8), Canvas.masks(3, Letters()))) == [
        1,
        1,
        1,
    ]


def known(*rows: list[float]) -> Recorded:
    """A denoiser of two or three tokens with these probabilities at each position."""
    p = torch.tensor(rows, dtype=torch.float64)
    logits = torch.cat([p.log(), torch.zeros(len(p), 1)], 1)[None]
    return Recorded(lambda ids: logits)


def order(strategy: str, denoiser: Recorded, length: int, tokens: int) -> list[int]:
    canvas = Canvas(torch.full((length,), tokens), torch.zeros(length, dtype=torch.bool), tokens)
    frames = run(SamplerConfig(strategy, steps=length, temperature=0.0), denoiser, canvas)
    return [p for frame in frames for p in frame.revealed]


def test_confidence_entropy_and_margin_each_have_their_own_order():
    # probabilities:       best 0.50, margin 0.25,  best 0.48, margin 0.01,  best 0.45, margin 0.175
    rows = ([0.50, 0.25, 0.25], [0.48, 0.47, 0.05], [0.45, 0.275, 0.275])
    assert order("low_confidence", known(*rows), 3, 3) == [0, 1, 2]
    assert order("margin", known(*rows), 3, 3) == [0, 2, 1]
    assert order("entropy", known(*rows), 3, 3) == [1, 0, 2]


def test_equals_are_revealed_from_the_left():
    for strategy in ("low_confidence", "entropy", "margin"):
        assert order(strategy, known(*[[0.5, 0.5]] * 4), 4, 2) == [0, 1, 2, 3]


def test_threshold_reveals_all_that_is_sure_and_always_the_best():
    denoiser = known([0.95, 0.05], [0.6, 0.4], [0.93, 0.07], [0.7, 0.3])
    canvas = Canvas(torch.full((4,), 2), torch.zeros(4, dtype=torch.bool), 2)
    frames = run(SamplerConfig("threshold", threshold=0.9, steps=1), denoiser, canvas)
    assert [frame.revealed for frame in frames] == [(), (0, 2), (3,), (1,)]


@pytest.mark.parametrize(("threshold", "calls"), [(0.5, 1), (math.nextafter(0.5, 1), 3)])
def test_a_confidence_of_exactly_the_threshold_is_enough(threshold, calls):
    canvas = Canvas(torch.full((3,), 2), torch.zeros(3, dtype=torch.bool), 2)
    frames = run(SamplerConfig("threshold", threshold=threshold, steps=1), known(*[[0.5, 0.5]] * 3), canvas)
    assert len(frames) - 1 == calls


def test_factor_reveals_more_the_surer_they_are_and_always_the_best():
    # (n + 1)(1 - c): 2 * 0.05, 3 * 0.07, 4 * 0.3, 5 * 0.4
    denoiser = known([0.95, 0.05], [0.6, 0.4], [0.93, 0.07], [0.7, 0.3])
    canvas = Canvas(torch.full((4,), 2), torch.zeros(4, dtype=torch.bool), 2)

    def revealed(factor: float) -> list[tuple[int, ...]]:
        return [frame.revealed for frame in run(SamplerConfig("factor", factor=factor), denoiser, canvas)[1:]]

    assert revealed(1.0) == [(0, 2), (3,), (1,)]
    assert revealed(0.0) == [(0,), (2,), (3,), (1,)]
    assert revealed(1.3) == [(0, 2, 3), (1,)]
    assert revealed(2.1) == [(0, 1, 2, 3)]


def test_entropy_bound_counts_all_but_the_largest_entropy_and_always_reveals_the_surest():
    # entropies in nats: 0.199, 0.673, 0.254, 0.611; in ascending order, their sums without the last: 0, 0.2, 0.45, 1.06
    denoiser = known([0.95, 0.05], [0.6, 0.4], [0.93, 0.07], [0.7, 0.3])
    canvas = Canvas(torch.full((4,), 2), torch.zeros(4, dtype=torch.bool), 2)

    def revealed(bound: float, **options: int) -> list[tuple[int, ...]]:
        config = SamplerConfig("entropy_bound", entropy_bound=bound, **options)
        return [frame.revealed for frame in run(config, denoiser, canvas)[1:]]

    assert revealed(0.0) == [(0,), (2,), (3,), (1,)]
    assert revealed(0.3) == [(0, 2), (3,), (1,)]
    assert revealed(0.5) == [(0, 2, 3), (1,)]
    assert revealed(1.1) == [(0, 1, 2, 3)]
    assert revealed(0.3, block_length=3) == [(0, 2), (1,), (3,)]


@pytest.mark.parametrize("block_length", [None, 2])
def test_tokens_revealed_with_a_low_probability_are_reconsidered_once_when_their_block_is_full(block_length):
    """Position 0 alone prefers token 0; with position 1 known, token 1. The mistake is mended, at two more passes."""

    def logits(ids):
        p = torch.full((1, 4, 2), 0.5).index_fill_(2, torch.tensor([0]), 0.5)
        p[0, :, 0] = torch.tensor([0.6 if ids[0, 1] == 2 else 0.02, 0.55, 0.97, 0.97])
        p[..., 1] = 1 - p[..., 0]
        return torch.cat([p.log(), torch.zeros(1, 4, 1)], -1)

    ids = torch.full((4,), 2)
    options = {"threshold": 0.9, "temperature": 0.0, "block_length": block_length}
    canvas = Canvas(ids, ids != 2, 2)
    plain = run(SamplerConfig("threshold", **options), Recorded(logits), canvas)
    mended = run(SamplerConfig("threshold", **options, remask_below=0.7), Recorded(logits), canvas)
    assert plain[-1].ids == (0, 0, 0, 0) and mended[-1].ids == (1, 0, 0, 0)
    assert [set(frame.remasked) for frame in mended if frame.remasked] == [{0}, {1}], "each of the two once"
    assert mended[-1].nfe == plain[-1].nfe + 2


@pytest.mark.parametrize("strategy", DETERMINISTIC)
def test_at_temperature_zero_the_seed_plays_no_part(strategy):
    canvas = Canvas.masks(9, Letters())
    runs = [
        untimed(run(SamplerConfig(strategy, steps=4, temperature=0.0, seed=s), fixed_logits(9, 8), canvas))
        for s in (0, 1)
    ]
    runs += [
        untimed(run(SamplerConfig(strategy, steps=4, temperature=0.0, confidence="drawn"), fixed_logits(9, 8), canvas))
    ]
    assert runs[0] == runs[1] == runs[2]  # the token drawn is the best one
    best = fixed_logits(9, 8).logits_of(canvas.ids[None])[0, :, :-1].argmax(-1)
    assert runs[0][-1].ids == tuple(best.tolist())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_seed_gives_another_sample(strategy):
    canvas = Canvas.masks(30, Letters())
    a, b = (
        run(SamplerConfig(strategy, steps=4, seed=s), fixed_logits(30, 8, scale=0.1), canvas)[-1].ids for s in (0, 1)
    )
    assert a != b


def test_first_hitting_reveals_one_token_a_call_at_falling_times():
    frames = run(SamplerConfig("first_hitting", steps=1), fixed_logits(12, 8), Canvas.masks(12, Letters()))
    assert counts(frames) == [1] * 12 and frames[-1].nfe == 12
    assert all(b.t < a.t for a, b in itertools.pairwise(frames))


def test_first_hitting_asks_at_the_new_time_as_bd3_lm_does():
    """The loop of BD3-LM's `_semi_ar_sampler`, literally: t shrinks first, then the denoiser is called at it."""
    sampler = Sampler(SamplerConfig("first_hitting", seed=5), LOG_LINEAR, 7)
    table = fixed_logits(9, 8)
    state = sampler.start(Canvas.masks(9, Letters()))
    x, t, asked = state.ids[0].copy(), 1.0, []
    for step in range(9):
        masked = np.flatnonzero(x == 7)
        drawn = sampler.noise(state.replace(step=step)).for_positions[0, masked]
        u = drawn.max() ** len(masked)  # uniform, as the largest of so many
        t *= u ** (1 / len(masked))
        asked.append(-math.log(1 - min(t, 0.999)))
        x[masked[drawn.argmax()]] = 0
    while not sampler.done(state):
        state = sampler.advance(table, state)
    assert [sigma.item() for _, sigma, _ in table.asked] == pytest.approx(asked, rel=1e-5)
    assert state.t[0] == pytest.approx(t)


def test_hitting_times_have_the_distribution_of_order_statistics():
    # With 3 masks the first hit lies at the largest of three uniforms: mean 3/4, then 2/4, then 1/4.
    sampler = Sampler(SamplerConfig("first_hitting"), LOG_LINEAR, 7)
    state = sampler.start([Canvas.masks(3, Letters())] * 4000)
    table = fixed_logits(3, 8)
    for mean in (3 / 4, 2 / 4, 1 / 4):
        state = sampler.advance(table, state)
        assert state.t.mean() == pytest.approx(mean, abs=4 * 0.22 / math.sqrt(4000))
    last = np.bincount(np.nonzero(state.revealed)[1], minlength=3)
    assert last == pytest.approx(4000 / 3, abs=4 * math.sqrt(4000 * 2 / 9))


@pytest.mark.parametrize("strategy", ON_SCHEDULE)
@pytest.mark.parametrize("name", SCHEDULES)
def test_on_the_grid_the_masked_share_follows_the_schedule(strategy, name):
    length, schedule = 20_000, get_schedule(name)
    config = SamplerConfig(strategy, steps=8, remask_cap=0.2, remask_rescale=0.2)
    frames = run(config, fixed_logits(length, 4), Canvas.masks(length, Letters(2)), schedule)
    for frame in frames:
        share = frame.ids.count(3) / length
        expected = 1 - float(schedule.alpha(torch.tensor(frame.t, dtype=torch.float64)))
        assert share == pytest.approx(expected, abs=0.0015 + 4 * math.sqrt(expected * (1 - expected) / length))
    remasked = sum(len(frame.remasked) for frame in frames)
    least = {"ancestral": 0, "remdm_conf": 1}.get(strategy, 1000)
    assert least <= remasked <= {"ancestral": 0, "remdm_conf": 20}.get(strategy, math.inf)


def test_confidence_based_remasking_adds_what_it_returns_to_the_share_of_the_schedule():
    """ReMDM-conf gives masked positions sigma 0: of m masks m (1 - a_s) / (1 - a_t) stay, and sigma_max are added."""
    rows, steps = 20_000, 6
    sampler = Sampler(SamplerConfig("remdm_conf", steps=steps), LOG_LINEAR, 7)
    state = sampler.start([Canvas.masks(5, Letters())] * rows)
    for left in range(steps, 0, -1):
        a_t, a_s = (float(LOG_LINEAR.alpha(torch.tensor(n / steps, dtype=torch.float64))) for n in (left, left - 1))
        before, state = state.masked.sum(1), sampler.advance(fixed_logits(5, 8), state)
        expected = before * (1 - a_s) / (1 - a_t) + min(1, (1 - a_s) / a_t) * (before < 5)
        excess = state.masked.sum(1) - expected
        assert excess.mean() == pytest.approx(0, abs=4 * excess.std() / math.sqrt(rows) + 1e-12)
    assert sampler.done(state)


def test_a_token_that_was_improbable_returns_more_often_than_a_sure_one_and_an_unknown_one_most_often():
    rows = 20_000
    sampler = Sampler(SamplerConfig("remdm_conf", steps=2), LOG_LINEAR, 7)
    ids = torch.tensor([0, 1, 2, 3, 7])
    state = sampler.start([Canvas(ids, torch.tensor([True, False, False, False, False]), 7)] * rows)
    confidence = np.tile([np.nan, 0.95, 0.05, np.nan, np.nan], (rows, 1))
    after = sampler.advance(fixed_logits(5, 8), state.replace(confidence=confidence))
    weights = np.exp([-0.95, -0.05, 0.0])
    shares = after.remasked.mean(0)
    assert shares[[0, 4]].tolist() == [0, 0]
    assert shares[1:4] == pytest.approx(weights / weights.sum(), abs=4 * 0.5 / math.sqrt(rows))


def test_a_loop_only_corrects_once_its_share_is_revealed():
    config = SamplerConfig("remdm_loop", steps=20, remask_cap=0.1, seed=1)
    frames = run(config, fixed_logits(400, 8), Canvas.masks(400, Letters()))
    corrects = [frame.step for frame in frames if frame.remasked]
    assert corrects == list(range(10, 20))  # from t_on = 0.55 to t_off = 0.05


@pytest.mark.parametrize("options", [{"remask_cap": 0.0}, {"remask_rescale": 0.0}], ids=str)
def test_remdm_that_returns_nothing_is_ancestral(options):
    runs = [
        untimed(run(SamplerConfig(s, steps=6, **options), fixed_logits(40, 8), Canvas.masks(40, Letters())))
        for s in ("ancestral", "remdm" if "remask_cap" in options else "remdm_rescale")
    ]
    assert runs[0] == runs[1][: len(runs[0])]
    assert runs[0][-1].ids == runs[1][-1].ids


def test_remdm_and_rescale_meet_at_the_largest_rate():
    canvas = Canvas.masks(40, Letters())
    cap = run(SamplerConfig("remdm", steps=6, remask_cap=1.0), fixed_logits(40, 8), canvas)
    rescale = run(SamplerConfig("remdm_rescale", steps=6, remask_rescale=1.0), fixed_logits(40, 8), canvas)
    assert untimed(cap) == untimed(rescale)


def test_remask_may_take_back_a_token_that_was_not_fixed():
    ids = torch.tensor([0, 1, 2, 3, 7, 7])
    canvas = Canvas(ids, torch.tensor([True, True, False, False, False, False]), 7)
    taken = set()
    for seed in range(40):
        frames = run(SamplerConfig("remdm", steps=6, remask_cap=1.0, seed=seed), fixed_logits(6, 8), canvas)
        taken |= {p for frame in frames for p in frame.remasked}
        assert frames[-1].ids[:2] == (0, 1) and 7 not in frames[-1].ids
    assert taken == {2, 3, 4, 5}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_canvas_without_holes_is_done_at_once(strategy):
    denoiser = fixed_logits(3, 8)
    frames = run(SamplerConfig(strategy), denoiser, Canvas.from_text("abc", Letters()))
    assert len(frames) == 1 and frames[0].ids == (0, 1, 2) and not denoiser.asked
