"""The training loop, to be read from top to bottom.

    ids          (rows of this rank, length) int64: a batch, which is a function of (seed, step)
    t            one noise level per row, stratified over all rows of the step
    loss         MDLM's bound in nats/token, over all tokens, truncated at both ends (diffusion/objective.py)
    ema          moving average of the weights: what is validated, sampled from and kept
    processes    the processes that share the run, one by default (distributed.py)

Called again with the same options, a run continues where it was stopped or killed, and repeats exactly: on a CPU bit
for bit, on CUDA up to the order of atomic additions, with another number of ranks up to the order of sums. Its folder:

    state/        the complete state, replaced atomically (checkpoint.py)
    log.jsonl     one line per step and per validation (logging.py);   loss.png, the curve
    checkpoint/   the averaged weights with a model card, written at the end and when the run is stopped
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuapriel.checkpoint import OF_A_RUN, checkpoint_name, init_from, refuse_to_replace, save_checkpoint
from diffuapriel.data.base import Corpus, random_stream
from diffuapriel.data.mixed import MixedCorpus, PartUse, use_table
from diffuapriel.device import device_name
from diffuapriel.diffusion.blocks import block_nelbo, stratified_blocks
from diffuapriel.diffusion.objective import nelbo, stratified_t, van_der_corput_order
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.nelbo import NelboEstimate, evaluate_nelbo, evaluate_parts
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model_card import write_card
from diffuapriel.ops.document_ids import make_document_ids
from diffuapriel.training.checkpoint import (
    TrainState,
    load_state,
    read_train_state,
    save_state,
    state_tensors,
)
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.cudagraph import (
    AddGradient,
    Recorded,
    can_record,
    micro_batch_size,
    recorded_or_plain,
)
from diffuapriel.training.data import batches, training_corpus
from diffuapriel.training.distributed import SingleProcess, full_tensor, init_distributed
from diffuapriel.training.logging import RunLog, progress_bar
from diffuapriel.training.optimizer import EMA, learning_rate, make_optimizer
from diffuapriel.training.parallelize import checkpoint_blocks, compiled_blocks
from diffuapriel.training.session import TrainingClock, folder_lock, stop_signals


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended. If it was stopped, `finished` is False and the same call continues it."""

    finished: bool
    step: int
    total_steps: int | None
    tokens: int
    seconds: float
    validation: NelboEstimate
    checkpoint: Path
    parts: dict[str, NelboEstimate]  # validation of the parts of a mix
    uses: list[PartUse]  # what was read of them


def train(config: TrainConfig, *, progress: bool = True) -> TrainResult:
    """Train a denoiser as `config` says, or continue the run in `config.folder`.

    progress: show a bar with loss, tokens/s, MFU and time left, on standard error. Raises ValueError when the folder
    holds a run with other options, FloatingPointError when the loss is no longer finite (the state on disk is the last
    good one).
    """
    folder = Path(config.folder)
    corpus = training_corpus(config)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        processes = init_distributed(config)
        keep_lock = stack.enter_context(folder_lock(folder)) if processes.is_main else lambda: None
        if processes.is_main:
            refuse_to_replace(folder / OF_A_RUN)
        processes.barrier()
        text = {"fingerprint": corpus.fingerprint(), "description": corpus.description}
        if processes.broadcast(text) != text:
            raise ValueError(f"rank {processes.rank} reads other text as {config.corpus!r} than rank 0: {text}")
        with torch.random.fork_rng(devices=[]):  # leaves the caller's generator alone
            torch.manual_seed(config.seed)
            model = Denoiser(config.model_config)  # initialized on the CPU: the same on every device
        model = model.to(processes.device)
        generator = torch.Generator(processes.device)
        found = read_train_state(folder / "state", config, text, processes)
        if config.init_from and not found:
            init_from(model, config.init_from)
        state = found or TrainState(total_steps=config.planned_steps, corpus=text)
        bar = stack.enter_context(
            progress_bar(
                config.architecture,
                state.total_steps,
                unit="step",
                initial=state.step,
                enabled=progress and processes.is_main,
            )
        )
        if progress and processes.is_main:
            bar.write(f"{corpus.name}: {corpus.description}")
            if uses := part_uses(corpus, config, state.total_steps or 0):
                bar.write(use_table(uses))
        if config.checkpoint_activations:
            checkpoint_blocks(model)
        if config.compile and not state.finished:
            bar.set_postfix_str("compiling")
            shape = (micro_batch_size(config, processes), config.length)
            zeros = torch.zeros(shape, dtype=torch.int64, device=processes.device)
            trial = partial(step_at_every_block_length, model, zeros, config, generator)
            stack.enter_context(compiled_blocks(model, trial, processes.any_rank, bar.write))
        network = processes.wrap(model)  # to be called; shares the model's parameters
        optimizer = make_optimizer(
            model,
            learning_rate=config.peak_learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        add, add_unsynced = (partial(add_gradient, n, config, processes) for n in (network, model))
        if can_record(config, processes) and not state.finished:
            add = recorded_or_plain(add, add_unsynced, model, config, processes, bar.write)
        ema = EMA(model, config.ema_decay)
        tensors = state_tensors(model, ema, optimizer)
        if found:
            load_state(folder / "state", state.step, tensors, optimizer, processes)
        save = partial(save_state, folder / "state", state, config, tensors, processes)
        log = stack.enter_context(closing(RunLog(config, state.step, processes)))
        clock = TrainingClock(config, state, processes, stop)
        data = batches(corpus, config, processes, start=state.step)

        while not (state.finished or clock.leaving):
            ids = next(data)
            lr = learning_rate(
                state.step,
                peak=config.peak_learning_rate,
                warmup_steps=config.warmup_steps,
                total_steps=state.total_steps,
                min_lr_ratio=config.min_lr_ratio,
            )
            for group in optimizer.param_groups:
                group["lr"] = lr

            generator.manual_seed(noise_seed(config.seed, state.step))
            block_length = draw_block_length(config, state.step)
            loss = backward(network, ids, config, generator, processes, add, block_length)
            norm = full_tensor(nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
            optimizer.step()
            optimizer.zero_grad(set_to_none=not isinstance(add, Recorded))
            ema.update(state.step)

            state.step += 1
            log.add(state.step, loss, norm, lr)
            bar.update()
            if clock.report_due(state):
                keep_lock()
                loss_so_far = log.flush()  # waits for the device
                speed = clock.report(state)
                bar.total = state.total_steps
                mfu = log.speed(state.step, speed)
                shown = f"loss {loss_so_far:.3f}, {speed:,.0f} tokens/s"
                bar.set_postfix_str(shown if mfu is None else f"{shown}, MFU {mfu:.0%}")
                if clock.save_now:
                    save()
            if state.step % config.validate_every == 0 and not state.finished:
                state.seconds = clock.seconds
                validate(model, ema, corpus, config, log, state)

        del data  # ends the workers
        keep_lock()
        log.flush()
        state.seconds = clock.seconds
        save()
        validation, parts = validate(model, ema, corpus, config, log, state)
        if corpus.description != text["description"] and progress and processes.is_main:
            bar.write(f"{corpus.name}: {corpus.description}")  # of a stream, what was left out in the meantime
        checkpoint = export(ema, config, state, validation, processes, corpus, parts)
    return TrainResult(
        state.finished,
        state.step,
        state.total_steps,
        state.step * config.tokens_per_step,
        state.seconds,
        validation,
        checkpoint,
        parts,
        part_uses(corpus, config, state.step),
    )


def backward(
    network: nn.Module,
    ids: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
    processes: SingleProcess | None = None,
    add: AddGradient | None = None,
    block_length: int | None = None,
) -> Tensor:
    """Add the gradient of one step's NELBO to the parameters; returns this rank's share of the loss, on the device.

    ids (rows of this rank, length). Every rank draws the stratified noise levels and the masks for all rows of the step
    and keeps its own, then takes them batch_size at a time, and every token has the same weight: accumulation and ranks
    change memory and time only. Gradients are averaged over the ranks once, after the last micro-batch.
    `add` replaces `add_gradient`, e.g. by its recorded form (cudagraph.py). block_length: of this step, for a model of
    blocks; the levels then belong to the blocks.
    """
    processes = processes or SingleProcess(ids.device)
    add = add or partial(add_gradient, network, config, processes)
    rows = len(ids) * processes.world_size
    own = slice(processes.rank * len(ids), (processes.rank + 1) * len(ids))
    if block_length is None:
        t = stratified_t(rows, generator, ids.device)[van_der_corput_order(rows, ids.device)][own]
    else:
        blocks = ids.shape[1] // (block_length or ids.shape[1])
        t = stratified_blocks(rows, blocks, generator, ids.device, mask_rates=config.mask_rate_range)[own]
    noise = torch.rand(rows, ids.shape[1], generator=generator, device=ids.device)[own]
    micro_batches = list(zip(*(values.split(config.batch_size) for values in (ids, t, noise))))
    total = torch.zeros((), device=ids.device)
    for i, micro_batch in enumerate(micro_batches):
        with processes.gradient_sync(network, enabled=i == len(micro_batches) - 1):
            total += add(*micro_batch, block_length=block_length)
    if isinstance(add, Recorded):
        processes.all_reduce_mean(add.gradients)
    return total


def add_gradient(
    network: nn.Module,
    config: TrainConfig,
    processes: SingleProcess,
    ids: Tensor,
    t: Tensor,
    noise: Tensor,
    max_masked: int | None = None,
    block_length: int | None = None,
) -> Tensor:
    """Add the gradient of one micro-batch; returns its share of the step's loss.

    ids and noise (rows, length), t (rows,), or (rows, blocks) with block_length: the u of `block_nelbo`. max_masked: as
    in `nelbo`.
    """
    shape = config.model_config
    options = {"noise": noise, "max_masked": max_masked, "compiled": config.compile and ids.is_cuda}
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        if block_length is None:
            document_ids = make_document_ids(ids, shape.eos_id) if shape.document_boundaries else None
            schedule = get_schedule(config.schedule)
            result = nelbo(network, ids, schedule, shape.mask_id, t=t, document_ids=document_ids, **options)
        else:
            result = block_nelbo(network, ids, shape.mask_id, block_length, u=t, **options)
    share = result.loss * (len(ids) / config.global_batch_size)
    processes.backward(share * processes.world_size)  # gradients are averaged over ranks; we want the sum
    return share.detach()


def step_at_every_block_length(model: nn.Module, ids: Tensor, config: TrainConfig, generator: torch.Generator) -> None:
    """`backward` at each block length, or once for full sequences: compiles all that the run needs."""
    for block_length in config.model_config.block_lengths or (None,):
        backward(model, ids, config, generator, block_length=block_length)


def draw_block_length(config: TrainConfig, step: int) -> int | None:
    """The block length of one step, the same on every rank; None for a model of full sequences."""
    block_lengths = config.model_config.block_lengths
    if not block_lengths:
        return None
    stream = random_stream(config.seed, "block_length", step)
    return stream.choices(block_lengths, config.block_length_shares)[0]


def noise_seed(seed: int, step: int) -> int:
    """The generator's seed for one step: 32 well-mixed bits, since torch's CPU generator uses no more."""
    return int.from_bytes(hashlib.sha256(f"noise {seed} {step}".encode()).digest()[:4], "little")


def validate(
    model: Denoiser, ema: EMA, corpus: Corpus, config: TrainConfig, log: RunLog, state: TrainState
) -> tuple[NelboEstimate, dict[str, NelboEstimate]]:
    """Score the averaged weights on validation sequences, the same ones every time, and redraw the curve.

    Returns the estimate for the corpus and, if it is a mix, one for each part.

    The estimate is the one of `evaluate`, by counts: unbiased, and the same number under every schedule.
    Every rank scores all of them. There are few, so the ranks agree without communication.
    """
    how: dict[str, Any] = {
        "length": config.length,
        "num_sequences": config.num_validation_sequences,
        "num_mc_samples": 4 if state.finished else 1,
        "batch_size": min(config.batch_size, config.num_validation_sequences),
        "block_length": next(iter(config.model_config.block_lengths), None),
    }
    with ema.applied(), torch.compiler.set_stance("force_eager"):
        estimate = evaluate_nelbo(model, corpus, **how)
        parts = evaluate_parts(model, corpus, **how)
    uses = part_uses(corpus, config, state.step)
    log.write_validation(state.step, estimate, seconds=state.seconds, parts=parts, uses=uses)
    log.draw()
    return estimate, parts


def part_uses(corpus: Corpus, config: TrainConfig, steps: int) -> list[PartUse]:
    """What the first `steps` steps read of each part of a mix; empty for other corpora."""
    if not isinstance(corpus, MixedCorpus) or not steps:
        return []
    return corpus.use(steps, batch_size=config.global_batch_size, length=config.length, seed=config.seed)


def export(
    ema: EMA,
    config: TrainConfig,
    state: TrainState,
    validation: NelboEstimate,
    processes: SingleProcess,
    corpus: Corpus,
    parts: dict[str, NelboEstimate],
) -> Path:
    """Write the averaged weights as a checkpoint with a card; returns its folder. All ranks must call it."""
    folder, shape, evaluation = Path(config.folder), config.model_config, validation.to_dict()
    weights = {name: full_tensor(average).cpu() for name, average in ema.averages.items()}
    if processes.is_main:
        with torch.device("meta"):
            model = Denoiser(shape)
        model.load_state_dict(weights, assign=True)
        device = device_name(processes.device)
        recipe = {
            "corpus": config.corpus,
            "text": state.corpus["description"],
            "fingerprint": state.corpus["fingerprint"],
            "length": config.length,
            "tokens": state.step * config.tokens_per_step,
            "steps": state.step,
            "finished": state.finished,
            "seconds": round(state.seconds, 1),
            "device": device if processes.world_size == 1 else f"{processes.world_size} x {device}",
            "torch": torch.__version__,
            "peak_learning_rate": config.peak_learning_rate,
            "init_from": config.init_from and checkpoint_name(config.init_from),
        }
        extra: dict[str, Any] = {"recipe": recipe, "options": config.to_dict(), "evaluation": evaluation}
        if isinstance(corpus, MixedCorpus):
            uses = {use.name: asdict(use) for use in part_uses(corpus, config, state.step)}
            extra["mix"] = corpus.mix.to_dict()
            extra["parts"] = {
                name: {**uses.get(name, {}), "evaluation": part.to_dict()} for name, part in parts.items()
            }
        card = write_card(
            name=folder.resolve().name,
            config=shape,
            parameters=shape.parameters,
            recipe=recipe,
            evaluation=evaluation,
            parts=extra.get("parts"),
            picture="loss.png",
        )
        save_checkpoint(
            folder / OF_A_RUN,
            model,
            card=card,
            extra=extra,
            pictures={"loss.png": (folder / "loss.png").read_bytes()},
        )
    processes.barrier()
    return folder / OF_A_RUN
