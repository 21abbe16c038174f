"""The loop: pure steps, frozen frames, one rule for one canvas and for many."""

import dataclasses
import gc
import math
import weakref

import numpy as np
import pytest
import torch

from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.tokens import Noise
from tests.sampling.models import VARIANTS, Letters, Recorded, contextual, fixed_logits, untimed

LETTERS = Letters()
M = LETTERS.mask_id
V = LETTERS.vocab_size
SCHEDULE = get_schedule("log-linear")


def sampler(strategy: str = "low_confidence", **options) -> Sampler:
    return Sampler(SamplerConfig(strategy, **options), SCHEDULE, M)


@pytest.mark.parametrize(("strategy", "options"), VARIANTS, ids=str)
def test_same_seed_same_trace(strategy, options):
    canvas = Canvas.from_text("a[MASK:7]b", LETTERS)
    runs = [untimed(sampler(strategy, steps=4, seed=9, **options).stream(contextual(9, V), canvas)) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("strategy", "options"), VARIANTS, ids=str)
def test_a_step_is_pure(strategy, options):
    s = sampler(strategy, steps=3, repetition_penalty=1.2, **options)
    state = s.advance(fixed_logits(9, V), s.start([Canvas.from_text("a[MASK:7]b", LETTERS)] * 2))
    ids, _, positions = s.model_inputs(state)
    logits = fixed_logits(9, V).logits_of(ids)[positions]
    kept, before = logits.clone(), {f.name: np.copy(getattr(state, f.name)) for f in arrays(state)}
    first, second = s.step(state, logits, s.noise(state)), s.step(state, logits, s.noise(state))
    assert torch.equal(logits, kept)
    for field in arrays(state):
        np.testing.assert_array_equal(getattr(state, field.name), before[field.name])
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(first, field.name)[...] = 0


def arrays(state) -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(state) if isinstance(getattr(state, f.name), np.ndarray)]


def test_a_denoiser_that_writes_to_its_inputs_changes_nothing():
    def rude(ids, sigma, positions):
        logits = fixed_logits(6, V)(ids, sigma, positions)
        ids.zero_(), positions.zero_(), sigma.zero_()
        return logits

    canvas = Canvas.masks(6, LETTERS)
    expected = generate(sampler(steps=3), fixed_logits(6, V), canvas)[0]
    assert torch.equal(generate(sampler(steps=3), rude, canvas)[0], expected)
    assert canvas.masked.all()


@pytest.mark.parametrize(("strategy", "options"), VARIANTS, ids=str)
def test_a_sample_does_not_depend_on_its_batch(strategy, options):
    canvas = Canvas.from_text("a[MASK:5]b", LETTERS)
    s = sampler(strategy, steps=3, seed=5, **options)
    together = generate(s, contextual(7, V), [canvas] * 6)
    for row in range(6):
        alone = generate(s, contextual(7, V), [canvas], first_row=row)
        assert torch.equal(alone[0], together[row])
    assert len({tuple(row) for row in together.tolist()}) > 1
    frames = list(s.stream(contextual(7, V), s.start(canvas, first_row=4)))
    assert frames[-1].ids == tuple(together[4].tolist())


def test_rows_with_different_holes_share_a_batch():
    ids = torch.tensor([[0, M, M, M], [M, 1, 2, 3], [0, 1, 2, 3]])
    denoiser = fixed_logits(4, V)
    for strategy in STRATEGIES:
        filled = generate(sampler(strategy, steps=3), denoiser, ids)
        assert (filled != M).all() and torch.equal(filled[ids != M], ids[ids != M])


def test_finished_rows_leave_the_batch():
    denoiser = fixed_logits(4, V)
    ids = torch.tensor([[M, M, M, M], [M, 1, 2, 3], [0, 1, 2, 3]])
    s = sampler("first_hitting")
    state = s.start([Canvas(row, row != M, M) for row in ids])
    while not s.done(state):
        state = s.advance(denoiser, state)
    assert [len(asked) for asked, _, _ in denoiser.asked] == [2, 1, 1, 1]
    assert state.nfe.tolist() == [4, 1, 0]


@pytest.mark.parametrize("strategy", ["ancestral", "remdm", "remdm_rescale", "remdm_conf"])
def test_on_a_canvas_of_masks_the_denoiser_is_told_the_schedule_from_t_1(strategy):
    denoiser = fixed_logits(200, V)
    list(sampler(strategy, steps=4).stream(denoiser, Canvas.masks(200, LETTERS)))
    expected = SCHEDULE.sigma(torch.tensor([1.0, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(torch.cat([sigma for _, sigma, _ in denoiser.asked]), expected)
    assert denoiser.asked[0][1].dtype == torch.float32


def test_in_a_loop_the_denoiser_is_told_that_time_stands_still():
    denoiser = fixed_logits(200, V)
    frames = list(
        sampler("remdm_loop", steps=5, alpha_on=0.8, t_on=0.6, t_off=0.2).stream(denoiser, Canvas.masks(200, LETTERS))
    )
    t = (1 - 0.8) / 0.999  # where alpha is 0.8
    assert [frame.t for frame in frames] == pytest.approx([1, (1 + t) / 2, t, t, t, 0])
    expected = SCHEDULE.sigma(torch.tensor([frame.t for frame in frames[:-1]]))
    torch.testing.assert_close(torch.cat([sigma for _, sigma, _ in denoiser.asked]), expected)


def test_with_a_prompt_the_denoiser_is_told_the_masked_share_of_the_whole_canvas():
    canvas = Canvas.from_text("abcdef[MASK:2]", LETTERS)
    for strategy in ("low_confidence", "random"):
        denoiser = fixed_logits(8, V)
        list(sampler(strategy, steps=2).stream(denoiser, canvas))
        torch.testing.assert_close(denoiser.asked[0][1], torch.tensor([-math.log1p(-2 / 8)]))
        torch.testing.assert_close(denoiser.asked[1][1], torch.tensor([-math.log1p(-1 / 8)]))
    denoiser = fixed_logits(8, V)
    _, *frames = sampler("first_hitting").stream(denoiser, canvas)
    for (_, sigma, _), frame in zip(denoiser.asked, frames, strict=True):
        torch.testing.assert_close(sigma, torch.tensor([-math.log1p(-frame.t * 2 / 8)]))
    denoiser = fixed_logits(8, V)
    list(sampler("ancestral", steps=2).stream(denoiser, canvas))
    torch.testing.assert_close(denoiser.asked[0][1], torch.tensor([-math.log1p(-0.999 * 2 / 8)]))


def test_the_noise_level_never_exceeds_the_largest_of_training():
    denoiser = fixed_logits(5, V)
    list(sampler("low_confidence", steps=5).stream(denoiser, Canvas.masks(5, LETTERS)))
    assert denoiser.asked[0][1].item() == pytest.approx(-math.log(1e-3), rel=1e-5)


def test_frame_zero_is_the_start_canvas():
    canvas = Canvas.from_text("ab[MASK:3]", LETTERS)
    frame = next(sampler().stream(fixed_logits(5, V), canvas))
    assert (frame.step, frame.t, frame.nfe, frame.ms) == (0, 1.0, 0, 0.0)
    assert frame.ids == tuple(canvas.ids.tolist())
    assert frame.revealed == frame.remasked == () and frame.top_k == {}
    assert frame.confidence == frame.entropy == (None,) * 5


def test_a_frame_tells_what_was_revealed_and_how_sure_it_was():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]], dtype=torch.float64)
    logits = torch.cat([p.log(), torch.zeros(2, 1)], 1)[None]
    canvas = Canvas(torch.tensor([3, 3]), torch.tensor([False, False]), 3)
    s = Sampler(SamplerConfig("low_confidence", steps=2, temperature=0.0), SCHEDULE, 3)
    frames = list(s.stream(Recorded(lambda ids: logits), canvas))
    assert [frame.revealed for frame in frames] == [(), (0,), (1,)]
    assert [frame.t for frame in frames] == [1.0, 0.5, 0.0]
    assert frames[1].confidence == (0.7, None) and frames[2].confidence == (0.7, 0.5)
    entropy = [-(row * row.log()).sum().item() for row in p]
    assert frames[2].entropy == pytest.approx(entropy, abs=1e-6)
    assert frames[1].top_k == {0: ((0, 0.7), (1, 0.2), (2, 0.1))}
    assert set(frames[2].top_k) == {1}


def test_frames_are_frozen_plain_values():
    frame = list(sampler().stream(fixed_logits(3, V), Canvas.masks(3, LETTERS)))[-1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.step = 3
    assert all(type(i) is int for i in frame.ids) and all(type(c) is float for c in frame.confidence)
    assert frame.ms >= frame.denoiser_ms >= 0


def test_nothing_is_computed_before_it_is_asked_for():
    denoiser = fixed_logits(5, V)
    stream = sampler(steps=5).stream(denoiser, Canvas.masks(5, LETTERS))
    next(stream)
    assert not denoiser.asked
    next(stream)
    assert len(denoiser.asked) == 1


def test_closing_the_stream_lets_go_of_the_denoiser():
    denoiser = fixed_logits(5, V)
    gone = weakref.ref(denoiser)
    stream = sampler(steps=5).stream(denoiser, Canvas.masks(5, LETTERS))
    next(stream), next(stream)
    del denoiser
    assert gone() is not None
    stream.close()
    gc.collect()
    assert gone() is None and list(stream) == []


def test_an_exception_in_the_denoiser_ends_the_stream_and_lets_go():
    def failing(ids, sigma, positions):
        raise RuntimeError("out of memory")

    stream = sampler().stream(failing, Canvas.masks(5, LETTERS))
    next(stream)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(stream)
    assert list(stream) == []


def test_gradients_of_the_caller_stay_on_between_frames_and_off_inside():
    seen = []

    def watching(ids, sigma, positions):
        seen.append(torch.is_grad_enabled())
        return fixed_logits(5, V)(ids, sigma, positions)

    for _ in sampler(steps=2).stream(watching, Canvas.masks(5, LETTERS)):
        assert torch.is_grad_enabled()
    assert seen == [False, False]


@pytest.mark.parametrize(("strategy", "options"), VARIANTS, ids=str)
def test_a_run_goes_on_from_any_state_as_if_never_stopped(strategy, options):
    canvas = Canvas.from_text("a[MASK:7]b", LETTERS)
    s = sampler(strategy, steps=4, seed=2, **options)
    whole = untimed(s.stream(contextual(9, V), canvas))
    state = s.start(canvas)
    for _ in range(2):
        state = s.advance(contextual(9, V), state)
    assert untimed(s.stream(contextual(9, V), state)) == whole[2:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_token_that_is_cleared_half_way_is_filled_again(strategy):
    s = sampler(strategy, steps=4)
    denoiser = fixed_logits(6, V)
    state = s.start(Canvas.masks(6, LETTERS))
    while not s.done(state):
        state = s.advance(denoiser, state)
    ids = state.ids.copy()
    ids[0, 3] = M
    frames = list(s.stream(denoiser, state.replace(ids=ids)))
    assert M not in frames[-1].ids and frames[-1].revealed == (3,)


def test_the_noise_of_a_step_depends_on_seed_row_and_step_alone():
    block = Noise.draw(seed=1, first_row=0, rows=3, step=4, length=5)
    assert np.array_equal(block.uniforms[2:], Noise.draw(1, 2, 1, 4, 5).uniforms)
    others = [Noise.draw(2, 0, 3, 4, 5), Noise.draw(1, 1, 3, 4, 5), Noise.draw(1, 0, 3, 5, 5)]
    assert all(not np.intersect1d(block.uniforms[0], other.uniforms[0]).size for other in others)
    assert not np.intersect1d(block.for_positions, block.for_tokens).size


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((1, 5)),
        np.zeros((1, 3, 5)),
        np.zeros((1, 2, 5), np.float32),
        np.ones((1, 2, 5)),
        np.full((1, 2, 5), np.nan),
    ],
)
def test_noise_outside_its_range_is_refused(values):
    with pytest.raises(ValueError, match="noise"):
        Noise(values)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_logits_with_nan_or_infinity_are_a_clear_error(strategy, bad):
    logits = torch.zeros(1, 4, V)
    logits[0, :, 2] = bad
    with pytest.raises(ValueError, match="logits hold NaN or infinity"):
        list(sampler(strategy, steps=2).stream(Recorded(lambda ids: logits), Canvas.masks(4, LETTERS)))


def test_logits_of_another_shape_are_a_clear_error():
    canvas = Canvas.masks(4, LETTERS)
    for wrong in (
        torch.zeros(3, V),
        torch.zeros(4, V + 1),
        torch.zeros(1, 4, V),
        torch.zeros(4, V, dtype=torch.int64),
    ):
        with pytest.raises(ValueError, match=r"they must be \(4, 8\)"):
            list(sampler().stream(lambda ids, sigma, positions, wrong=wrong: wrong, canvas))


def test_what_does_not_fit_together_is_refused():
    s = sampler()
    with pytest.raises(ValueError, match="use one tokenizer"):
        s.start(Canvas.masks(3, Letters(4)))
    with pytest.raises(ValueError, match="one length"):
        s.start([Canvas.masks(3, LETTERS), Canvas.masks(4, LETTERS)])
    with pytest.raises(ValueError, match="at least one"):
        s.start([])
    with pytest.raises(ValueError, match="first_row"):
        s.start(Canvas.masks(3, LETTERS), first_row=-1)
    with pytest.raises(ValueError, match="generate"):
        s.stream(fixed_logits(3, V), s.start([Canvas.masks(3, LETTERS)] * 2))
    with pytest.raises(ValueError, match="batch, length"):
        generate(s, fixed_logits(3, V), torch.tensor([M, M]))
    with pytest.raises(TypeError, match="SamplerConfig"):
        Sampler({"steps": 3}, SCHEDULE, M)
    with pytest.raises(ValueError, match="mask_id"):
        Sampler(SamplerConfig(), SCHEDULE, 0)


def test_the_denoiser_of_the_package_fits():
    from diffuapriel.config import ModelConfig
    from diffuapriel.model.denoiser import Denoiser

    config = ModelConfig("diffutran", d_model=64, depth=1, vocab_size=40)
    denoiser = Denoiser(config).eval()
    ids = torch.full((3, 10), config.mask_id)
    ids[:, 0] = 5
    filled = generate(Sampler(SamplerConfig(steps=4), SCHEDULE, config.mask_id), denoiser, ids)
    assert filled.shape == (3, 10) and (filled[:, 0] == 5).all() and (filled < config.mask_id).all()
    assert not filled.requires_grad
