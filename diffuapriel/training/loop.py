"""The training loop: the whole of it, to be read from top to bottom.

    ids          (rows of this rank, length) int64: of the batch of update `step`, a function of (seed, step)
    t            one noise level a row, stratified over all rows of the update
    loss         nats/token over all tokens, the NELBO (diffusion/objective.py)
    averages     EMA of the weights: what is validated, drawn from and kept
    ranks        the processes that share the run, one by default (ranks.py)

Run it again with the same options and it goes on where it was, killed or interrupted, and repeats exactly: on a
CPU bit for bit, on CUDA up to the order of atomic additions, with another number of ranks up to the order of sums. A
run's folder:

    state/        the whole state, replaced atomically (state.py)
    log.jsonl     a line per update, a line per validation (log.py);   loss.png, the curve
    checkpoint/   the averaged weights with a model card, at the end or where the run was stopped
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from diffuapriel.data.registry import open_corpus
from diffuapriel.diffusion.objective import nelbo, spread, stratified_t
from diffuapriel.diffusion.schedule import Schedule, get_schedule
from diffuapriel.evaluation.nelbo import NelboEstimate
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.ops.document_ids import make_document_ids
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.training.checkpoint import Progress, find_progress, load_state, save_state
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.cudagraph import AddGradient, Recorded, can_record, part_rows, recorded_or_plain
from diffuapriel.training.data import batches
from diffuapriel.training.distributed import OneProcess, open_ranks, whole
from diffuapriel.training.flops import peak_flops, utilisation
from diffuapriel.training.logging import Board, RunLog, progress_bar
from diffuapriel.training.optimizer import EMA, learning_rate, make_optimizer
from diffuapriel.training.parallelize import checkpoint_blocks, compiled_blocks
from diffuapriel.training.result import save_result, validate
from diffuapriel.training.session import Clock, alone_in, stop_signals


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended. `finished` is False when it was stopped: the same call goes on."""

    finished: bool
    step: int
    total_steps: int | None
    tokens: int
    seconds: float
    validation: NelboEstimate
    checkpoint: Path


def train(config: TrainConfig, *, progress: bool = True) -> TrainResult:
    """Train a denoiser as `config` says, or go on with the run in `config.folder`.

    progress: a bar with loss, tokens/s, MFU and time left, on standard error. Raises ValueError when the folder
    holds a run with other options, FloatingPointError when the loss is no longer a number (the state on disk
    is the last good one).
    """
    folder, schedule = Path(config.folder), get_schedule(config.schedule)
    corpus = open_corpus(config.corpus, get_tokenizer(config.model_config.tokenizer))
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        ranks = open_ranks(config)
        if ranks.first:
            stack.enter_context(alone_in(folder))
        ranks.barrier()
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to move
            torch.manual_seed(config.seed)
            model = Denoiser(config.model_config)  # drawn on the CPU: the same on every device
        model = model.to(ranks.device)
        generator = torch.Generator(ranks.device)
        found = find_progress(folder / "state", config)
        at = found or Progress(total_steps=config.planned_steps)
        bar = stack.enter_context(
            progress_bar(
                config.architecture,
                at.total_steps,
                unit="step",
                initial=at.step,
                enabled=progress and ranks.first,
            )
        )
        if config.checkpoint_activations:
            checkpoint_blocks(model)
        if config.compile and not at.finished:
            bar.set_postfix_str("compiling")
            shape = (part_rows(config, ranks), config.length)
            nothing = torch.zeros(shape, dtype=torch.int64, device=ranks.device)
            trial = lambda: backward(model, nothing, schedule, config, generator)  # noqa: E731
            stack.enter_context(compiled_blocks(model, trial, ranks.any, bar.write))
        network = ranks.wrap(model)  # what is called; the parameters are still the model's
        optimizer = make_optimizer(
            model,
            learning_rate=config.peak_learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        add, alone = (partial(add_gradient, n, schedule, config, ranks) for n in (network, model))
        if can_record(config, ranks) and not at.finished:
            add = recorded_or_plain(add, alone, model, schedule, config, ranks, bar.write)
        ema = EMA(model, config.ema_decay)
        if found:
            load_state(folder / "state", at.step, model, ema, optimizer, ranks)
        board = Board(folder / "tensorboard", at.step) if config.tensorboard and ranks.first else None
        log = RunLog(folder, at.step, ranks, board)
        clock = Clock(config, at, ranks, stop)
        data = batches(corpus, config, ranks, start=at.step)

        while not (at.finished or clock.leaving):
            ids = next(data)
            rate = learning_rate(
                at.step,
                peak=config.peak_learning_rate,
                warmup_steps=config.warmup_steps,
                total_steps=at.total_steps,
                final=config.final_rate,
            )
            for group in optimizer.param_groups:
                group["lr"] = rate

            generator.manual_seed(noise_seed(config.seed, at.step))
            loss = backward(network, ids, schedule, config, generator, ranks, add)
            norm = whole(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
            optimizer.step()
            optimizer.zero_grad(set_to_none=not isinstance(add, Recorded))
            ema.update(at.step)

            at.step += 1
            log.add(at.step, loss, norm, rate)
            bar.update()
            if clock.report_due(at):
                loss_so_far = log.flush()  # waits for the device
                speed = clock.report(at)
                bar.total = at.total_steps
                bar.set_postfix_str(_line(loss_so_far, speed, config, ranks, log, at.step))
                if clock.save_now:
                    save_state(folder / "state", at, config, model, ema, optimizer, ranks)
            if at.step % config.validate_every == 0 and not at.finished:
                at.seconds = clock.seconds
                validate(model, ema, corpus, config, log, at)

        del data  # ends its workers
        log.flush()
        at.seconds = clock.seconds
        save_state(folder / "state", at, config, model, ema, optimizer, ranks)
        validation = validate(model, ema, corpus, config, log, at)
        checkpoint = save_result(ema, config, at, validation, ranks)
        if board:
            board.close()
    tokens = at.step * config.tokens_per_step
    return TrainResult(at.finished, at.step, at.total_steps, tokens, at.seconds, validation, checkpoint)


def backward(
    network: nn.Module,
    ids: Tensor,
    schedule: Schedule,
    config: TrainConfig,
    generator: torch.Generator,
    ranks: OneProcess | None = None,
    add: AddGradient | None = None,
) -> Tensor:
    """Add the gradient of one update's NELBO to the parameters; returns this rank's part of the loss, on the device.

    ids (rows of this rank, length). Noise levels, stratified, and masks are drawn for all rows of the update, on every
    rank alike, before these are taken batch_size at a time, and every token weighs the same: accumulation and ranks
    change memory and time, and nothing else. Gradients are averaged over the ranks, once, after the last part.
    `add` stands in for `add_gradient`: the same, recorded (recording.py).
    """
    ranks = ranks or OneProcess(ids.device)
    add = add or partial(add_gradient, network, schedule, config, ranks)
    rows = len(ids) * ranks.ranks
    own = slice(ranks.rank * len(ids), (ranks.rank + 1) * len(ids))
    t = stratified_t(rows, generator, ids.device)[spread(rows, ids.device)][own]
    noise = torch.rand(rows, ids.shape[1], generator=generator, device=ids.device)[own]
    parts = list(zip(*(values.split(config.batch_size) for values in (ids, t, noise))))
    total = torch.zeros((), device=ids.device)
    for i, part in enumerate(parts):
        with ranks.synchronized(network, when=i == len(parts) - 1):
            total += add(*part)
    if isinstance(add, Recorded):
        ranks.average(add.gradients)
    return total


def add_gradient(
    network: nn.Module,
    schedule: Schedule,
    config: TrainConfig,
    ranks: OneProcess,
    ids: Tensor,
    t: Tensor,
    noise: Tensor,
    most_masked: int | None = None,
) -> Tensor:
    """Add the gradient of one part, ids and noise (rows, length), t (rows,); returns its share of the update's loss.

    most_masked: as in `nelbo`.
    """
    ends = config.model_config.eos_id if config.document_boundaries else None
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        result = nelbo(
            network,
            ids,
            schedule,
            config.model_config.mask_id,
            t=t,
            noise=noise,
            document_ids=None if ends is None else make_document_ids(ids, ends),
            most_masked=most_masked,
            compiled=config.compile and ids.is_cuda,
        )
    share = result.loss * (len(ids) / config.rows)
    ranks.backward(share * ranks.ranks)  # the ranks' gradients are averaged: their sum is wanted
    return share.detach()


def noise_seed(seed: int, step: int) -> int:
    """The generator's seed for one update: 32 well-mixed bits, as torch's CPU generator uses no more."""
    return int.from_bytes(hashlib.sha256(f"noise {seed} {step}".encode()).digest()[:4], "little")


def _line(loss: float, speed: float, config: TrainConfig, ranks: OneProcess, log: RunLog, step: int) -> str:
    """What the bar says after a report, and what the board hears of it: speed, and MFU where the card is known."""
    peak = peak_flops(ranks.device)
    mfu = utilisation(config.model_config, config.length, speed, peak, ranks.ranks) if peak else None
    log.speed(step, speed, mfu)
    return f"loss {loss:.3f}, {speed:,.0f} tokens/s" + (f", MFU {mfu:.0%}" if mfu is not None else "")
