"""The training loop: the whole of it, to be read from top to bottom.

    ids          (batch_size x accumulate, length) int64: the batch of update `step`, a function of (seed, step)
    t            one noise level a row, stratified over all rows of the update
    loss         nats a token over all tokens, the NELBO (diffusion/objective.py)
    averages     EMA of the weights: what is validated, drawn from and kept

Run it again with the same options and it goes on where it was, killed or interrupted, and repeats exactly: on a
CPU bit for bit, on CUDA up to the order of atomic additions. A run's folder:

    state/        the whole state, replaced atomically (state.py)
    log.jsonl     a line an update, a line a validation (log.py);   loss.png, the curve
    checkpoint/   the averaged weights with a model card, at the end or where the run was stopped
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuapriel.card import write_card
from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.diffusion.objective import nelbo, stratified_t
from diffuapriel.diffusion.schedule import Schedule, get_schedule
from diffuapriel.evaluation.perplexity import NelboEstimate, evaluate_nelbo
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.text.corpus import Corpus, open_corpus
from diffuapriel.text.tokenizer import get_tokenizer
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.data import batches
from diffuapriel.training.ema import EMA
from diffuapriel.training.log import RunLog
from diffuapriel.training.optimizer import learning_rate, make_optimizer
from diffuapriel.training.progress import progress_bar
from diffuapriel.training.session import Clock, alone_in, stop_signals
from diffuapriel.training.state import Progress, load_state, save_state

VALIDATION_WINDOWS = 64


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

    progress: a bar with loss, tokens/s and time left, on standard error. Raises ValueError when the folder
    holds a run with other options, FloatingPointError when the loss is no longer a number (the state on disk
    is the last good one).
    """
    device, folder = config.torch_device, Path(config.folder)
    corpus = open_corpus(config.corpus, get_tokenizer(config.model_config.tokenizer))
    schedule = get_schedule(config.schedule)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to move
        torch.manual_seed(config.seed)
        model = Denoiser(config.model_config).to(device)  # drawn on the CPU: the same on every device
    optimizer = make_optimizer(
        model, learning_rate=config.peak_learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    ema = EMA(model, config.ema_decay)
    generator = torch.Generator(device)

    with ExitStack() as stack:
        stack.enter_context(alone_in(folder))
        stop = stack.enter_context(stop_signals())
        at = load_state(folder / "state", config, model, ema, optimizer) or Progress(
            total_steps=config.planned_steps
        )
        log = RunLog(folder, at.step)
        clock = Clock(config, at)
        bar = stack.enter_context(
            progress_bar(config.architecture, at.total_steps, unit="step", initial=at.step, enabled=progress)
        )
        if config.compile and not at.finished:
            stack.enter_context(_compiled(model, config, schedule, bar))
        data = batches(corpus, config, device, start=at.step)

        while not (at.finished or stop.is_set() or clock.out_of_time):
            ids = next(data)
            rate = learning_rate(
                at.step,
                peak=config.peak_learning_rate,
                warmup_steps=config.warmup_steps,
                total_steps=at.total_steps,
            )
            for group in optimizer.param_groups:
                group["lr"] = rate

            generator.manual_seed(noise_seed(config.seed, at.step))
            loss = backward(model, ids, schedule, config, generator)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(at.step)

            at.step += 1
            log.add(at.step, loss, norm, rate)
            bar.update()
            if clock.report_due(at):
                loss_so_far = log.flush()  # waits for the device
                clock.plan(at)
                at.seconds = clock.seconds
                bar.total = at.total_steps
                bar.set_postfix_str(f"loss {loss_so_far:.3f}, {clock.speed(at):,.0f} tokens/s")
                if clock.save_due():
                    save_state(folder / "state", at, config, model, ema, optimizer)
            if at.step % config.validate_every == 0 and not at.finished:
                at.seconds = clock.seconds
                _validate(model, ema, corpus, config, log, at)

        del data  # ends its workers
        log.flush()
        at.seconds = clock.seconds
        save_state(folder / "state", at, config, model, ema, optimizer)
        validation = _validate(model, ema, corpus, config, log, at)
        _save_result(model, ema, config, at, validation, folder)
    return TrainResult(
        at.finished,
        at.step,
        at.total_steps,
        at.step * config.tokens_per_step,
        at.seconds,
        validation,
        folder / "checkpoint",
    )


def backward(
    model: nn.Module, ids: Tensor, schedule: Schedule, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """Add the gradient of one update's NELBO to the parameters; returns the loss, on the device.

    ids (batch_size x accumulate, length). The noise levels are stratified over all rows before these are taken
    batch_size at a time, and every token weighs the same, so accumulation changes memory and nothing else.
    """
    t = stratified_t(len(ids), generator, ids.device)
    total = torch.zeros((), device=ids.device)
    for part, times in zip(ids.split(config.batch_size), t.split(config.batch_size)):
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            result = nelbo(
                model,
                part,
                schedule,
                config.model_config.mask_id,
                t=times,
                generator=generator,
                every_position=ids.is_cuda,  # counting the masked positions would wait for the GPU
            )
        share = result.loss * (len(part) / len(ids))
        share.backward()
        total += share.detach()
    return total


def noise_seed(seed: int, step: int) -> int:
    """The generator's seed for one update: 32 well-mixed bits, as torch's CPU generator uses no more."""
    return int.from_bytes(hashlib.sha256(f"noise {seed} {step}".encode()).digest()[:4], "little")


def _validate(
    model: nn.Module, ema: EMA, corpus: Corpus, config: TrainConfig, log: RunLog, at: Progress
) -> NelboEstimate:
    """Score the averaged weights on held-out windows, always the same ones, and redraw the curve."""
    with ema.applied(), torch.compiler.set_stance("force_eager"):
        estimate = evaluate_nelbo(
            model,
            corpus,
            length=config.length,
            windows=VALIDATION_WINDOWS,
            draws=4 if at.finished else 1,
            batch_size=min(config.batch_size, VALIDATION_WINDOWS),
            schedule=config.schedule,
        )
    log.write_validation(at.step, estimate, seconds=at.seconds)
    log.draw(config.tokens_per_step, title=f"{config.architecture} on {config.corpus}")
    return estimate


def _save_result(
    model: Denoiser, ema: EMA, config: TrainConfig, at: Progress, validation: NelboEstimate, folder: Path
) -> None:
    """The averaged weights as a checkpoint, with what is known of them so far."""
    device = config.torch_device
    recipe = {
        "corpus": config.corpus,
        "length": config.length,
        "tokens": at.step * config.tokens_per_step,
        "updates": at.step,
        "finished": at.finished,
        "seconds": round(at.seconds, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "peak_learning_rate": config.peak_learning_rate,
    }
    card = write_card(
        name=folder.resolve().name,
        config=config.model_config,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        recipe=recipe,
        evaluation=validation.to_dict(),
        picture="loss.png",
    )
    with ema.applied():
        save_checkpoint(
            folder / "checkpoint",
            model,
            card=card,
            extra={"recipe": recipe, "options": config.to_dict(), "evaluation": validation.to_dict()},
            pictures={"loss.png": (folder / "loss.png").read_bytes()},
        )


@contextmanager
def _compiled(model: Denoiser, config: TrainConfig, schedule: Schedule, bar: Any) -> Iterator[None]:
    """Within the block the denoiser's blocks run compiled, where the compiler works.

    Compiled one by one: blocks of a kind share their code, so it is compiled once, not once a layer. A batch of
    nothing goes through first; when that fails, the run goes on without and says so.
    """
    bar.set_postfix_str("compiling")
    nothing = torch.zeros(config.batch_size, config.length, dtype=torch.int64, device=config.torch_device)
    with ExitStack() as stack:
        try:
            for block in model.blocks:
                block.compile(dynamic=False)
            backward(model, nothing, schedule, config, torch.Generator(config.torch_device))
        except Exception as error:  # compilers fail in many ways, and none of them is worth a run
            reason = (str(error) or repr(error)).splitlines()[0]
            bar.write(f"torch.compile failed, going on without it: {reason}")
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        model.zero_grad()
        yield
