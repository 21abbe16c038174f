"""Distillation to few passes: trajectories, the two losses against their definitions, and a student that is faster."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from diffuapriel.cli import main
from diffuapriel.config import ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.generate import generate_counted
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.training import distillation
from diffuapriel.training.config import DISTILLATIONS, DistillConfig
from diffuapriel.training.distillation import certainty_loss, distill, sdtt_loss, write_trajectories
from tests.sampling.models import Letters, block_model

MASK = 7  # of Letters
SHAPE = {"d_state": 4, "headdim": 8, "cond_dim": 8}


def small(**changes) -> Denoiser:
    return block_model("diffuapriel", 8, **changes)


def test_a_trajectory_is_what_the_careful_sampler_writes_in_its_order():
    model = small(block_lengths=(), time_conditioning=True)
    config = SamplerConfig("low_confidence", steps=8, block_length=4, seed=2)
    ids, order = write_trajectories(model, Letters(), config, rows=3, length=8, batch_size=2)
    sampler = Sampler(config, get_schedule("log-linear"), MASK)
    texts, _ = generate_counted(sampler, model, torch.full((3, 8), MASK))
    assert torch.equal(ids, texts)
    assert torch.equal(order.sort(1).values, torch.arange(8).expand(3, 8))
    assert (order[:, :4] < 4).all(), "the first block comes first"


def test_the_order_of_given_texts_is_that_in_which_they_would_have_been_revealed():
    model, config = small(), SamplerConfig("low_confidence", steps=8, block_length=4, block_start="zero", seed=2)
    written, order = write_trajectories(model, Letters(), config, rows=3, length=8, batch_size=3)
    again, found = write_trajectories(model, Letters(), config, rows=3, length=8, batch_size=2, texts=written)
    assert torch.equal(again, written) and torch.equal(found, order)
    given = (written + 1) % MASK
    kept, order = write_trajectories(model, Letters(), config, rows=3, length=8, batch_size=3, texts=given)
    assert torch.equal(kept, given)
    surest = denoiser_for(model, config)(torch.full((3, 8), MASK), torch.full((3,), 9.0), torch.ones(3, 8).bool())
    first = surest.view(3, 8, -1)[:, :4, :MASK].softmax(-1).amax(-1).argmax(1)
    assert torch.equal(order.argmin(1), first), "the order is the model's own"


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_certainty_loss_is_the_cross_entropy_and_the_entropy_of_what_is_right(blocks):
    model = small(block_lengths=(4, 0))
    ids, order = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1]]), torch.tensor([[3, 0, 1, 2, 7, 6, 5, 4]])
    u = torch.full((1, blocks), 0.3)  # of 8 tokens 2 are revealed, of 4 in each block 1
    masked = torch.tensor([[1, 0, 0, 1, 1, 1, 1, 1]] if blocks == 1 else [[1, 0, 1, 1, 1, 1, 1, 0]]).bool()
    at = torch.tensor([[1, 0, 0, 1, 0, 0, 0, 1]] if blocks == 1 else [[0, 0, 1, 1, 0, 1, 1, 0]]).bool()
    window = 3 if blocks == 1 else 2
    over = {"clean": ids, "block_length": 4} if blocks == 2 else {}
    known = torch.tensor([[0.25] * 2]) if blocks == 2 else torch.tensor([0.25])
    logits = model(ids.masked_fill(masked, MASK), -torch.log(known), at, **over)[:, :MASK]
    log_p = logits.log_softmax(-1)
    expected = -log_p.gather(1, ids[at][:, None]).mean()
    right = log_p.argmax(1) == ids[at]
    entropies = torch.distributions.Categorical(logits=logits).entropy()
    sure = entropies[right].mean() if right.any() else 0.0
    found = certainty_loss(model, ids, order, u, MASK, window, 0.5)
    torch.testing.assert_close(found.double(), expected + 0.5 * sure)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_teacher_that_reveals_nothing_teaches_its_own_distribution(blocks):
    teacher = small(block_lengths=(4, 0))
    student = copy.deepcopy(teacher)
    ids = torch.arange(8)[None] % 7
    u = torch.full((1, blocks), 0.6)
    how = {"stride": 1e-9, "teacher_steps": 3}

    def loss() -> torch.Tensor:
        return sdtt_loss(student, teacher, ids, u, MASK, generator=torch.Generator().manual_seed(0), **how)

    assert loss().item() == pytest.approx(0, abs=1e-9)
    student.head.weight.data += 0.3 * torch.randn(student.head.weight.shape, generator=torch.Generator().manual_seed(1))
    assert loss().item() > 1e-3


def test_the_target_of_a_token_is_the_teachers_distribution_when_it_was_revealed():
    """The second token copies the first: once the teacher has revealed one, it is certain of the other."""

    def teacher(noisy, sigma, at, **_):
        logits = torch.zeros(1, 2, 8)
        for p in (0, 1):
            if noisy[0, 1 - p] != MASK:
                logits[0, p] = -100.0
                logits[0, p, noisy[0, 1 - p]] = 0.0
        return logits[at]

    seen = []

    def student(noisy, sigma, at, **_):
        seen.append(noisy.tolist())
        return torch.zeros(2, 8, requires_grad=True)

    ids, u = torch.tensor([[3, 3]]), torch.tensor([[0.99]])
    found = [
        sdtt_loss(
            student, teacher, ids, u, MASK, stride=1.0, teacher_steps=2, generator=torch.Generator().manual_seed(s)
        )
        for s in range(12)
    ]
    # A pass reveals each with probability 1/2: both or none cost nothing, one of them teaches log 7 for the other.
    values = {round(loss.item(), 4) for loss in found}
    assert values == {0.0, round(float(np.log(7)) / 2, 4)} and seen == [[[MASK, MASK]]] * 12


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    torch.manual_seed(1)
    model = Denoiser(ModelConfig("diffuapriel", 16, 1, 4098, "gpt2-4k", **SHAPE))
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    save_checkpoint(folder, model, card="", extra={"recipe": {"corpus": "tales:1", "length": 8}})
    return str(folder)


def test_a_student_is_sure_of_what_its_teacher_wrote_and_writes_it_in_fewer_passes(teacher, tmp_path):
    """One text is all that there is to learn: the student reveals it at once, which its teacher never would."""
    options = {"sequences": 1, "steps": 60, "batch_size": 4, "learning_rate": 3e-2}
    folder = distill(DistillConfig(teacher, str(tmp_path / "student"), **options), progress=False)
    config = SamplerConfig("threshold", threshold=0.5, block_length=8)
    passes = []
    for name in (teacher, folder):
        model, tokenizer = load_checkpoint(name)
        sampler = Sampler(config, get_schedule("log-linear"), tokenizer.mask_id)
        passes += generate_counted(sampler, model, torch.full((1, 8), tokenizer.mask_id))[1]
    assert passes[0] == 8 and passes[1] <= 4
    info = inspect_checkpoint(folder)
    assert info.corpus == "tales:1" and info.length == 8 and info.extra["recipe"]["method"] == "certainty"


@pytest.mark.parametrize("method", DISTILLATIONS)
def test_the_command_writes_the_student_and_refuses_what_belongs_to_other_trainings(teacher, tmp_path, capsys, method):
    out = str(tmp_path / "student")
    command = ["train", "--teacher", teacher, "--method", method, "--steps", "2", "--sequences", "2", "--quiet"]
    assert main([*command, "--batch-size", "2", "--out", out]) == 0
    assert f"diffuapriel sample --checkpoint {out}" in capsys.readouterr().out
    assert main([*command, "--corpus", "tales:2", "--out", out]) == 1
    assert "--corpus cannot be combined with --teacher" in capsys.readouterr().err
    assert main(["train", "--method", method, "--steps", "2", "--out", out]) == 1
    assert "--method goes with --teacher" in capsys.readouterr().err


def test_a_model_of_blocks_is_distilled_at_its_block_lengths(tmp_path):
    torch.manual_seed(1)
    shape = ModelConfig(
        "diffuapriel", 16, 1, 4098, "gpt2-4k", block_lengths=(1, 4, 0), time_conditioning=False, **SHAPE
    )
    folders = tmp_path / "teacher", tmp_path / "student"
    save_checkpoint(folders[0], Denoiser(shape), card="", extra={"recipe": {"corpus": "tales:1", "length": 8}})
    options = {"sequences": 2, "steps": 3, "batch_size": 2}
    for method in DISTILLATIONS:
        config = DistillConfig(str(folders[0]), str(folders[1]), method, **options)
        distill(config, progress=False)
        assert inspect_checkpoint(folders[1]).config == dataclasses.replace(shape, block_lengths=(4, 0))
    written = distillation._written(*load_checkpoint(folders[0]), config, (4, 0), 8, False)
    texts = {block_length: texts for block_length, (texts, _) in written.items()}
    assert set(texts) == {4, 8} and torch.equal(texts[4], texts[8]), "written in blocks of one token, for both lengths"
    distill(DistillConfig(str(folders[0]), str(folders[1]), block_lengths="4", **options), progress=False)
    assert inspect_checkpoint(folders[1]).config.block_lengths == (4,)
    with pytest.raises(ValueError, match="block_lengths are '1,4'; 1 is not among the teacher's: 4, 0"):
        DistillConfig(str(folders[0]), str(folders[1]), block_lengths="1,4").learned((1, 4, 0))
    with pytest.raises(ValueError, match="length is 6; the teacher's block length 4 must divide it"):
        distill(DistillConfig(str(folders[0]), str(folders[1]), length=6), progress=False)
