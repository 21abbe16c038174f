"""What the loop computes: it learns, it repeats, and its options mean what they say."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import subprocess
from pathlib import Path

import pytest
import torch

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint
from diffuapriel.config import ARCHITECTURES
from diffuapriel.data.registry import open_corpus
from diffuapriel.diffusion.objective import nelbo, stratified_t, van_der_corput_order
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.nelbo import evaluate_nelbo
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.ops.document_ids import make_document_ids
from diffuapriel.storage import read_tensors
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.training import data, loop
from diffuapriel.training.data import batches
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import backward, noise_seed, train
from diffuapriel.training.optimizer import learning_rate, make_optimizer
from diffuapriel.training.parallelize import checkpoint_blocks

CPU = SingleProcess(torch.device("cpu"))


def losses(folder) -> list[float]:
    return [record["loss"] for record in read_log(folder) if "loss" in record]


def read_state(folder) -> dict[str, torch.Tensor]:
    """The tensors of a state that one process has written: one file."""
    (file,) = (Path(folder) / "state").glob("*.safetensors")
    return read_tensors(file)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_overfits_one_batch(options, tiny_model, architecture):
    shape = dataclasses.replace(tiny_model(architecture), d_model=32, d_state=8)
    config = options(architecture, model=shape, batch_size=8)
    torch.manual_seed(0)
    model, schedule = Denoiser(shape), get_schedule()
    two_rows = open_corpus("tales:1", get_tokenizer("gpt2-4k")).batch(0, split="train", batch_size=2, length=24, seed=0)
    optimizer = make_optimizer(model, learning_rate=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator()

    @torch.no_grad()
    def score() -> float:
        generator.manual_seed(1)
        return nelbo(model, two_rows.repeat(32, 1), schedule, shape.mask_id, generator=generator).loss.item()

    assert score() > 6.0  # about log 4098
    for step in range(150):
        generator.manual_seed(noise_seed(0, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=1e-2, warmup_steps=10, total_steps=150)
        backward(model, two_rows.repeat_interleave(4, 0), config, generator)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert score() < 1.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_leaves_a_log_a_curve_a_state_and_a_checkpoint(options, tmp_path, monkeypatch, architecture):
    monkeypatch.undo()  # the curve is drawn
    result = train(options(architecture, steps=12, validate_every=5), progress=False)
    assert result.finished and result.step == result.total_steps == 12
    assert result.tokens == 12 * 4 * 24
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {"state", "checkpoint", "log.jsonl", "loss.png", "lock"}
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    log = read_log(run)
    assert [record["step"] for record in log if "loss" in record] == list(range(1, 13))
    assert [record["step"] for record in log if "validation" in record] == [5, 10, 12]
    assert all(0 < record["entropy"] < record["validation"] for record in log if "validation" in record)
    model, _ = load_checkpoint(result.checkpoint)
    assert model.config == options(architecture).model_config
    extra = inspect_checkpoint(result.checkpoint).extra
    assert extra["recipe"]["tokens"] == result.tokens and extra["options"]["seed"] == 0
    assert "1,152" in (result.checkpoint / "README.md").read_text()


def test_the_rate_ends_where_the_options_say(options):
    config = options(steps=8, min_lr_ratio=0.0, schedule="quadratic")
    train(config, progress=False)
    rates = [record["learning_rate"] for record in read_log(config.folder) if "loss" in record]
    how = {"peak": config.peak_learning_rate, "warmup_steps": 5, "total_steps": 8}
    assert rates == [learning_rate(step, **how, min_lr_ratio=0.0) for step in range(8)]
    assert rates[-1] < learning_rate(7, **how)


def test_the_checkpoint_holds_the_averaged_weights(options):
    """With a decay of zero the average is the last weights; with one of nearly one it lags behind."""
    config = options(steps=6, ema_decay=0.0)
    train(config, progress=False)
    model, _ = load_checkpoint(config.folder + "/checkpoint")
    state = read_state(config.folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[f"ema/{name}"]) and torch.allclose(tensor, state[f"model/{name}"])
    config = options(steps=6, ema_decay=0.999, folder=config.folder + "-2")
    train(config, progress=False)
    state = read_state(config.folder)
    assert not torch.allclose(state["ema/head.weight"], state["model/head.weight"])


def test_a_run_begins_with_the_weights_of_a_checkpoint(options, tmp_path):
    source = options(steps=6)
    train(source, progress=False)
    begun = options(folder=str(tmp_path / "begun"), steps=1, learning_rate=1e-8, init_from=source.folder)
    train(begun, progress=False)
    pairs = zip(*(load_checkpoint(folder)[0].parameters() for folder in (source.folder, begun.folder)), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-7) for a, b in pairs)
    info = inspect_checkpoint(begun.folder)
    assert info.extra["recipe"]["init_from"] == Path(source.folder).name
    assert "| init from | run |" in (info.folder / "README.md").read_text(encoding="utf-8")


def test_a_model_of_full_sequences_begins_to_write_in_blocks(options, tiny_model, tmp_path):
    source = options(steps=6)
    train(source, progress=False)
    shape = dataclasses.replace(tiny_model(), block_lengths=(1, 0), time_conditioning=False)
    begun = options(model=shape, folder=str(tmp_path / "begun"), steps=1, learning_rate=1e-8, init_from=source.folder)
    train(begun, progress=False)
    one, other = (load_checkpoint(folder)[0].eval() for folder in (source.folder, begun.folder))
    assert other.config.block_lengths == (1, 0)
    ids = torch.full((1, 24), shape.mask_id)
    assert (one(ids, torch.ones(1)) - other(ids, torch.ones(1))).abs().max() < 1e-3  # AdaLN has hardly learned yet


def test_a_checkpoint_of_another_shape_is_refused_with_what_differs(options, tiny_model, tmp_path):
    source = options(steps=1)
    train(source, progress=False)
    wide = options(
        model=dataclasses.replace(tiny_model(), d_model=32), folder=str(tmp_path / "wide"), init_from=source.folder
    )
    with pytest.raises(ValueError, match="has d_model 16, not 32: begin with a model of its preset"):
        train(wide, progress=False)
    words = dataclasses.replace(tiny_model(), tokenizer="tales-words", vocab_size=1018)
    with pytest.raises(ValueError, match="has vocab_size 4098, not 1018; tokenizer gpt2-4k, not tales-words"):
        train(dataclasses.replace(wide, model=words), progress=False)


def test_same_seed_same_losses_another_seed_others(options, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(options(steps=5, seed=seed, folder=str(tmp_path / name)), progress=False)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


def test_the_caller_s_random_numbers_are_left_alone(options):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(options(steps=2), progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_accumulation_equals_one_large_batch(options):
    gradients, totals = [], []
    for changes in ({"batch_size": 6}, {"batch_size": 2, "gradient_accumulation_steps": 3}):
        config = options(**changes)
        torch.manual_seed(0)
        model = Denoiser(config.model_config)
        ids = next(batches(open_corpus("tales:1", get_tokenizer("gpt2-4k")), config, CPU, start=7))
        assert ids.shape == (6, 24)
        totals.append(backward(model, ids, config, torch.Generator().manual_seed(1)))
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(totals[0], totals[1])
    for one, three in zip(*gradients):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_documents_of_a_window_do_not_see_each_other_where_asked(options, tiny_model, architecture):
    config = options(architecture, document_boundaries=True, checkpoint_activations=True)
    corpus = open_corpus("tales:1", get_tokenizer("gpt2-4k"))
    ids = corpus.batch(0, split="train", batch_size=config.global_batch_size, length=config.length, seed=0)
    document_ids = make_document_ids(ids, config.model_config.eos_id)
    assert (document_ids[:, -1] > 0).any(), "a window holds several stories"

    torch.manual_seed(0)
    model, generator, schedule = Denoiser(config.model_config), torch.Generator(), get_schedule()
    for parameter in model.modulation.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # or every block is the identity
    checkpoint_blocks(model)
    apart = backward(model, ids, config, generator.manual_seed(1))
    assert all(parameter.grad is not None for parameter in model.parameters())
    generator.manual_seed(1)
    t = stratified_t(len(ids), generator, ids.device)[van_der_corput_order(len(ids))]
    noise = torch.rand(ids.shape, generator=generator)
    given = {"t": t, "noise": noise}
    told = nelbo(model, ids, schedule, config.model_config.mask_id, document_ids=document_ids, **given).loss
    blind = nelbo(model, ids, schedule, config.model_config.mask_id, **given).loss
    assert torch.allclose(apart, told.detach(), atol=1e-5) and not torch.allclose(apart, blind.detach(), atol=1e-4)


def test_a_run_that_keeps_documents_apart_is_validated_so_and_claims_no_entropy(options):
    config = options(document_boundaries=True, length=32)
    result = train(config, progress=False)
    assert result.validation.entropy is None and result.validation.excess_nelbo is None
    model, tokenizer = load_checkpoint(result.checkpoint)
    again = evaluate_nelbo(
        model,
        open_corpus(config.corpus, tokenizer),
        length=32,
        num_sequences=config.num_validation_sequences,
        num_mc_samples=4,
        batch_size=min(config.batch_size, config.num_validation_sequences),
    )
    assert again == result.validation, "the checkpoint knows it"


def test_bf16_autocast_trains_and_keeps_weights_in_float32(options):
    result = train(options(steps=3, precision="bf16"), progress=False)
    assert all(tensor.dtype == torch.float32 for tensor in load_checkpoint(result.checkpoint)[0].state_dict().values())


def test_batches_are_a_function_of_the_update(options):
    corpus, config = open_corpus("tales:1", get_tokenizer("gpt2-4k")), options()
    stream = batches(corpus, config, CPU, start=3)
    third, fourth = next(stream), next(stream)
    assert torch.equal(fourth, next(batches(corpus, config, CPU, start=4))) and not torch.equal(third, fourth)


def test_batches_made_ahead_by_workers_are_the_same_in_the_same_order(options):
    corpus, config = open_corpus("tales:1", get_tokenizer("gpt2-4k")), options()
    alone, helped = (batches(corpus, config, CPU, start=3, workers=workers) for workers in (0, 2))
    for _ in range(6):
        assert torch.equal(next(alone), next(helped))


def test_workers_outlive_a_signal_to_all_of_a_job_and_end_with_the_loop(options):
    corpus, config = open_corpus("tales:1", get_tokenizer("gpt2-4k")), options()
    others = set(multiprocessing.active_children())
    alone, helped = (batches(corpus, config, CPU, start=3, workers=workers) for workers in (0, 2))
    for _ in range(2):  # one of each worker
        assert torch.equal(next(alone), next(helped))
    first, second = workers = set(multiprocessing.active_children()) - others
    for worker in workers:
        for name in ("INT", "TERM"):
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)  # not from the workers' parent
    for _ in range(3 * data.PREFETCHED):  # more than was ready
        assert torch.equal(next(alone), next(helped))
    second.terminate()  # what DataLoader does with a worker that does not come to an end
    second.join(30)
    del helped
    first.join(30)
    assert first.exitcode == second.exitcode == 0


def test_noise_seeds_differ_between_updates_and_runs():
    seeds = {noise_seed(seed, step) for seed in range(20) for step in range(200)}
    assert len(seeds) == 4000 and max(seeds) < 2**32


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(options, monkeypatch):
    config = options(steps=5000)
    state = Path(config.folder) / "state" / "state.json"
    train(options(steps=5000, stop_after_minutes=0.01), progress=False)
    before = json.loads(state.read_text())["step"]
    monkeypatch.setattr(loop, "backward", lambda *given: backward(*given) * float("nan"))
    with pytest.raises(FloatingPointError, match=r"the loss is nan.*smaller learning rate"):
        train(config, progress=False)
    assert json.loads(state.read_text())["step"] == before


def test_a_compiler_that_fails_costs_a_line_not_the_run(options, monkeypatch, capfd):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler on this machine\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    assert train(options(steps=2, compile=True), progress=True).finished
    heard = "".join(capfd.readouterr())
    assert "torch.compile failed, continuing without it: no compiler on this machine" in heard
    assert "and much more" not in heard


def test_a_folder_that_a_save_may_not_replace_is_refused_before_a_run_begins(options, monkeypatch):
    monkeypatch.setattr(loop, "Denoiser", None)
    folder = Path(options().folder) / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"contains 'thesis\.tex', which a save would delete"):
        train(options(), progress=False)
