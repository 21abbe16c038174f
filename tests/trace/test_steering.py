"""A run in a person's hands: what is edited, what stays, what repeats, and the way back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from diffuapriel.config import ARCHITECTURES
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import STRATEGIES, SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.steering import SteeredGeneration, replace_text
from diffuapriel.trace.trace import Trace
from tests.sampling.models import block_model

SCHEDULE = get_schedule("log-linear")
TOKENIZER = get_tokenizer("gpt2-4k")
TABLE = torch.randn(64, TOKENIZER.vocab_size, generator=torch.Generator().manual_seed(3)) * 3


def denoiser(ids, sigma, positions):
    """Logits that depend on the place and on the whole canvas: an edit anywhere matters everywhere."""
    shift = int(ids.sum()) % 97
    return TABLE[torch.nonzero(positions[0]).flatten()].roll(shift, dims=-1)


def steered(length: int = 12, text: str = "", **options) -> SteeredGeneration:
    canvas = Canvas.from_text(text, TOKENIZER, length)
    return SteeredGeneration(canvas, SamplerConfig(**{"steps": length} | options), SCHEDULE)


def finish(run: SteeredGeneration) -> SteeredGeneration:
    while not run.done:
        run.advance(denoiser)
    return run


def plain(frame):
    return dataclasses.replace(frame, ms=0.0, denoiser_ms=0.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_nobody_steers_is_the_samplers_own(strategy):
    run = finish(steered(strategy=strategy, steps=8))
    config = SamplerConfig(strategy, steps=8)
    stream = Sampler(config, SCHEDULE, TOKENIZER.mask_id).stream(denoiser, run.canvas)
    assert [plain(f) for f in run.frames()] == [plain(f) for f in stream]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_seed_and_same_edits_give_the_same_text(strategy):
    def story():
        run = steered(strategy=strategy, steps=8, text="Mia")
        for _ in range(3):
            run.advance(denoiser)
        run.write(5, TOKENIZER.encode(" red box"))
        filled = [p for p in range(12) if run.state.ids[0, p] != TOKENIZER.mask_id and not run.state.fixed[0, p]]
        if filled:
            run.mask(filled[:1])
        return finish(run)

    first, second = story(), story()
    assert [plain(f) for f in first.frames()] == [plain(f) for f in second.frames()]
    assert TOKENIZER.mask_id not in first.state.ids


def test_what_a_person_wrote_stays_and_counts_as_theirs():
    run = steered(strategy="remdm", remask_cap=1.0, steps=6)
    run.advance(denoiser)
    ids = TOKENIZER.encode(" red")
    frame = run.write(4, ids)
    assert frame.edits == {4: "type"} and frame.nfe == 1 and frame.step == 2
    assert frame.confidence[4] is None and frame.revealed == (4,)
    finish(run)
    assert run.state.ids[0, 4] == ids[0]
    assert all(4 not in f.remasked for f in run.frames())


def test_clearing_a_finished_text_opens_it_again_one_token_a_step():
    run = finish(steered())
    frame = run.mask([2, 3, 4])
    assert frame.remasked == (2, 3, 4) and frame.edits == {2: "mask", 3: "mask", 4: "mask"}
    assert run.planned_steps == len(run) + 3
    before = len(run)
    finish(run)
    assert len(run) == before + 3
    assert all(len(f.revealed) == 1 for f in list(run.frames())[-3:])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_goes_on_after_an_edit_at_the_end(strategy):
    run = finish(steered(strategy=strategy, steps=6))
    run.mask([0, 1])
    finish(run)
    assert TOKENIZER.mask_id not in run.state.ids


def test_another_candidate_is_one_of_the_top_five():
    run = steered()
    frame = run.advance(denoiser)
    ((position, candidates),) = frame.top_k.items()
    token, probability = next((i, q) for i, q in candidates if i != frame.ids[position])
    chosen = run.choose(position, token)
    assert chosen.ids[position] == token and chosen.edits == {position: "choose"}
    assert chosen.confidence[position] == probability and chosen.entropy[position] == frame.entropy[position]
    assert run.candidates(position) == candidates == chosen.top_k[position]
    with pytest.raises(ValueError, match="not among the candidates"):
        run.choose(position, next(i for i in range(9999) if i not in dict(candidates)))
    run.mask([position])
    with pytest.raises(ValueError, match="not among the candidates"):
        run.choose(position, token)


def test_a_pin_holds_until_it_is_taken_off():
    run = steered(strategy="remdm", remask_cap=1.0, steps=8)
    while not (filled := np.flatnonzero(~run.state.masked[0])).size:
        run.advance(denoiser)
    p = int(filled[0])
    token = run.state.ids[0, p]
    assert run.pin([p]).edits == {p: "pin"}
    for _ in range(3):
        run.advance(denoiser)
        assert run.state.ids[0, p] == token
    run.pin([p], pinned=False)
    assert not run.state.fixed[0, p]
    with pytest.raises(ValueError, match="cannot be pinned"):
        steered().pin([0, 1])


def test_an_edit_before_the_first_step_changes_the_start():
    run = steered(text="Mia found")
    run.write(3, TOKENIZER.encode(" box"))
    run.mask([0])
    run.pin([1], pinned=False)
    assert len(run) == 0 and len(list(run.frames())) == 1
    assert run.canvas.fixed.tolist()[:4] == [False, False, bool(run.canvas.fixed[2]), True]
    assert finish(run).state.ids[0, 3] == TOKENIZER.encode(" box")[0]


def test_a_branch_goes_on_as_the_run_itself_would_have():
    run = finish(steered(strategy="first_hitting"))
    for at in (0, 1, 5, len(run)):
        branch = finish(run.branch(at))
        assert [plain(f) for f in branch.frames()] == [plain(f) for f in run.frames()]
    with pytest.raises(ValueError, match="permitted: 0 to 12"):
        run.branch(13)


def test_a_branch_with_an_edit_ends_elsewhere_and_leaves_the_run_alone():
    run = finish(steered())
    ending = run.state.ids.copy()
    branch = run.branch(6)
    branch.write(0, TOKENIZER.encode("Sam"))
    finish(branch)
    assert (run.state.ids == ending).all() and len(run) == 12
    assert (branch.state.ids != ending).any()
    assert [plain(f) for f in branch.frames()][:7] == [plain(f) for f in run.frames()][:7]


def test_again_keeps_what_is_fixed_and_masks_the_rest():
    run = finish(steered(text="Mia"))
    run.write(5, TOKENIZER.encode(" box"))
    fresh = run.restart(SamplerConfig(seed=1))
    kept = np.flatnonzero(fresh.canvas.fixed.numpy())
    assert fresh.canvas.masked.sum() == 12 - len(kept)
    assert (fresh.state.ids[0, kept] == run.state.ids[0, kept]).all() and 5 in kept


def test_a_steered_trace_is_saved_loaded_and_gone_on_with():
    run = steered(strategy="low_confidence", text="Mia", top_p=0.9)
    for _ in range(4):
        run.advance(denoiser)
    run.write(9, TOKENIZER.encode(" red"))
    run.mask([0])
    trace = run.trace(TOKENIZER, model="toy")
    again = Trace.from_json(trace.to_json())
    assert again == trace
    assert [f.edits for f in again.frames[-2:]] == [{9: "type"}, {0: "mask"}]
    taken_up = SteeredGeneration.from_trace(again, SCHEDULE)
    assert [plain(f) for f in taken_up.frames()] == [plain(f) for f in run.frames()]
    assert (finish(taken_up).state.ids == finish(run).state.ids).all()


def test_a_run_that_is_taken_up_knows_which_tokens_were_reconsidered():
    run = steered(strategy="threshold", threshold=0.9, remask_below=0.99)
    while not run.state.remasked.any():
        run.advance(denoiser)
    run.advance(denoiser)
    taken_up = SteeredGeneration.from_trace(Trace.from_json(run.trace(TOKENIZER, model="toy").to_json()), SCHEDULE)
    assert [plain(f) for f in finish(taken_up).frames()] == [plain(f) for f in finish(run).frames()]
    remasked = [p for frame in run.frames() for p in frame.remasked]
    assert remasked and len(remasked) == len(set(remasked)), "each at most once"


def test_a_trace_from_before_block_start_goes_on_in_blocks_from_zero():
    run = steered(strategy="low_confidence", text="Mia", block_length=4)
    run.advance(denoiser)
    trace = run.trace(TOKENIZER, model="toy")
    assert SteeredGeneration.from_trace(trace, SCHEDULE).config.block_start == "prompt"
    del trace.meta["block_start"]
    assert SteeredGeneration.from_trace(trace, SCHEDULE).config.block_start == "zero"


@pytest.mark.parametrize("positions", [[], [-1], [12], [0, 99]])
def test_positions_outside_the_canvas_are_refused(positions):
    for edit in (steered().mask, steered(text="Mia").pin):
        with pytest.raises(ValueError, match="from 0 to 11"):
            edit(positions)


def test_what_cannot_be_written_is_refused():
    run = steered(text="Mia")
    for ids in ([], [TOKENIZER.mask_id + 1], [-1]):
        with pytest.raises(ValueError, match="permitted: one or more from 0 to 4097"):
            run.write(0, ids)
    with pytest.raises(ValueError, match="from 0 to 11"):
        run.write(11, TOKENIZER.encode(" two words"))
    with pytest.raises(ValueError, match="masked already"):
        run.mask([11])
    with pytest.raises(ValueError, match=r"no \[MASK\] left"):
        finish(run).advance(denoiser)


def test_text_over_a_range_leaves_masks_and_takes_only_masks():
    run = steered(text="Mia found a box")
    run.advance(denoiser)
    given = int(run.canvas.fixed.sum())
    one = TOKENIZER.encode(" red")
    frame = run.write(1, one, until=3)
    assert frame.edits == {1: "type", 2: "mask", 3: "mask"}
    assert frame.ids[1:4] == (*one, TOKENIZER.mask_id, TOKENIZER.mask_id)
    assert run.state.fixed[0, 1:4].tolist() == [True, False, False]
    assert run.write(1, [*one, TOKENIZER.mask_id]).edits == {1: "type", 2: "mask"}
    run.write(1, one * 3, until=1)
    assert run.state.ids[0, 1:4].tolist() == one * 3 and given > 4


def test_what_follows_moves_right_until_a_mask_gives_way():
    run = steered(text="Mia found a [MASK:2].")
    for _ in range(2):
        run.advance(denoiser)
    before = run.state
    hole = int(np.flatnonzero(before.masked[0])[0])
    red = TOKENIZER.encode(" red")[0]
    frame = run.write(1, [red, red], until=1)
    assert frame.ids[:3] == (before.ids[0, 0], red, red)
    assert frame.ids[3 : hole + 1] == tuple(before.ids[0, 2:hole]) and frame.ids[hole + 1 :] == tuple(
        before.ids[0, hole + 1 :]
    )
    assert run.state.fixed[0, 3 : hole + 1].tolist() == before.fixed[0, 2:hole].tolist()
    moved = {p: kind for p, kind in frame.edits.items() if p > 2}
    assert set(moved.values()) <= {"type", "move"} and max(moved) == hole
    np.testing.assert_array_equal(run.state.confidence[0, 3 : hole + 1], before.confidence[0, 2:hole].round(6))
    assert [plain(f) for f in finish(run.branch(len(run))).frames()] == [plain(f) for f in finish(run).frames()]


def test_filler_at_the_end_gives_way_and_one_stays():
    run = finish(steered(strategy="random"))
    eos, red = TOKENIZER.eos_id, TOKENIZER.encode(" red")[0]
    run.write(9, [eos, eos, eos])
    run.write(0, [red, red, red], until=0, filler=eos)
    assert run.state.ids[0, :3].tolist() == [red] * 3 and run.state.ids[0, 10:].tolist() == [
        *run.state.ids[0, 10:11],
        eos,
    ]
    with pytest.raises(ValueError, match="needs room for 1 more, and 0 masked positions follow it"):
        run.write(0, [red, red], until=0, filler=eos)


def canvas_of(text: str, length: int | None = None) -> Canvas:
    return Canvas.from_text(text, TOKENIZER, length)


def test_before_the_run_text_is_edited_as_text():
    ids = TOKENIZER.encode
    start = canvas_of("Mia found a [MASK:2].", 12)
    longer = replace_text(start, 0, 1, ids("The big dog"), 64)
    assert len(longer) == 12 and longer.text(TOKENIZER).startswith("The big dog found a[MASK][MASK].[MASK]")
    assert longer.fixed.tolist() == longer.ids.ne(TOKENIZER.mask_id).tolist()
    shorter = replace_text(start, 0, 2, ids("I"), 64)
    assert len(shorter) == 12 and shorter.text(TOKENIZER).startswith("I a[MASK][MASK].[MASK]")
    whole = replace_text(canvas_of("Mia found it."), 0, 1, ids("A very old dog"), 64)
    assert whole.text(TOKENIZER) == "A very old dog found it."
    with pytest.raises(ValueError, match="permitted: up to 12"):
        replace_text(start, 0, 0, ids("word " * 30), 12)
    with pytest.raises(ValueError, match="permitted: 0 to 11"):
        replace_text(start, 0, 12, ids("a"), 64)


def test_a_long_run_is_kept_small():
    run = finish(steered(length=64, steps=64))
    kept = sum(m.positions.size for m in run.snapshots)
    assert kept == 64
    assert max(len(m.frame.ids) for m in run.snapshots) == 1


def same_frames(run: SteeredGeneration, other: SteeredGeneration) -> bool:
    return [plain(f) for f in run.frames()] == [plain(f) for f in other.frames()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("strategy", ["threshold", "ancestral", "speculative"])
def test_a_run_in_blocks_is_steered_as_any_other(architecture, strategy):
    """Branch from any step, undo, and edit a token of a finished block: as a model that has seen nothing before."""
    model = block_model(architecture, TOKENIZER.vocab_size)
    options = {"block_length": 4, "block_start": "zero", "threshold": 0.05, "stop_at_eos": True}
    run = steered(14, "Mia", strategy=strategy, **options)
    cached = denoiser_for(model, run.config)
    while not run.done:
        run.advance(cached)
    for at in range(0, len(run), 3):  # any block
        branch = run.branch(at)
        while not branch.done:
            branch.advance(cached)
        assert same_frames(branch, run)
    ends = []
    for denoiser in (cached, denoiser_for(model, run.config)):
        edited = run.branch(len(run))
        edited.write(1, TOKENIZER.encode(" cat"))
        edited.mask([2, 9])
        while not edited.done:
            edited.advance(denoiser)
        ends.append(edited)
    assert same_frames(*ends)
    assert edited.trace(TOKENIZER).final == Trace.from_json(edited.trace(TOKENIZER).to_json()).final
    resumed = SteeredGeneration.from_trace(run.branch(3).trace(TOKENIZER), SCHEDULE)
    while not resumed.done:
        resumed.advance(denoiser_for(model, run.config))
    assert same_frames(resumed, run)
    assert any(frame.draft for frame in run.frames()) == (strategy == "speculative")


def test_what_follows_the_end_of_a_text_is_part_of_its_history():
    eos = TOKENIZER.eos_id
    ends = torch.zeros(12, TOKENIZER.vocab_size)
    ends[torch.arange(12), torch.where(torch.arange(12) == 2, eos, 5)] = 60.0
    run = steered(strategy="threshold", block_length=4, stop_at_eos=True)
    while not run.done:
        run.advance(lambda ids, sigma, positions: ends[positions[0]])
    assert run.state.ids[0].tolist() == [5, 5, *[eos] * 10] and len(run) == 1
    assert run.branch(1).state.ids[0].tolist() == run.state.ids[0].tolist() == list(run.trace(TOKENIZER).final)
