"""Distillation to few passes: a copy of a model learns to be sure, in few passes, of what the model wrote in many.

    diffuapriel train --teacher tales-diffuapriel --method certainty --steps 4000 --out runs/fast

The teacher first writes `sequences` texts, one token per pass, and the pass at which each token appeared is kept. A
model of blocks of one token writes them so. The student of a model of blocks learns in blocks of more, the length drawn
for each step, and knows no others.

certainty   dParallel (arXiv:2509.26488) and d3LLM (arXiv:2601.07568). The student sees a state of the teacher's own
            trajectory: the first tokens that it revealed, the rest masked. It learns the teacher's tokens of the next
            `window` passes, by cross-entropy, and where its best token is the teacher's, to be sure of it:

                loss = mean of -log p(x_i)  +  certainty_weight x mean of the entropies where argmax p_i = x_i

sdtt        Self-distillation through time (arXiv:2410.21035). From a text masked at random, the teacher reveals a share
            `stride` of it in `teacher_steps` passes. The student learns in one pass the distribution that the teacher
            had for each token when it revealed it, or at last where it did not, by the divergence KL(teacher, student).
            With the student as the next teacher and twice the stride, this is a round of the paper's.

The states of a model of blocks are those of every block, given the clean blocks before it. What is gained in passes
can be lost in variety: compare the student with its teacher by `evaluate` (entropy, distinct stories, and the
chi-squares of plots and names) and by `tune`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuapriel.checkpoint import (
    checkpoint_name,
    inspect_checkpoint,
    load_checkpoint,
    refuse_to_replace,
    save_checkpoint,
)
from diffuapriel.data.base import random_stream
from diffuapriel.diffusion.blocks import block_noise_levels, mask_blocks, stratified_blocks
from diffuapriel.diffusion.objective import subs_log_probs
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model_card import write_card
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig, resolve_blocks
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import Tokenizer
from diffuapriel.training.config import DistillConfig
from diffuapriel.training.logging import progress_bar
from diffuapriel.training.optimizer import EMA, learning_rate, make_optimizer

MOST_LOGITS = 2**28  # of the teacher's passes, at once: 1 GB


@torch.no_grad()
def write_trajectories(
    model: nn.Module,
    tokenizer: Tokenizer,
    config: SamplerConfig,
    rows: int,
    length: int,
    batch_size: int,
    *,
    texts: Tensor | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Texts (rows, length), and the rank of each token in the order in which it was revealed, (rows, length) int64.

    config: a strategy that reveals one token per pass. texts: (rows, length), to find the order in which the model
    would have revealed these; by default it writes them. batch_size: texts at a time; it changes nothing else. Both
    results are on the CPU.
    """
    sampler = Sampler(config, get_schedule("log-linear"), tokenizer.mask_id)
    canvas = Canvas.masks(length, tokenizer).to(next(model.parameters()).device)
    found, orders = [], []
    what = f"{'order' if texts is not None else 'write'}, blocks of {config.block_length or length}"
    with progress_bar(what, rows, unit="text", enabled=progress) as bar:
        for first in range(0, rows, batch_size):
            state = sampler.start([canvas] * min(batch_size, rows - first), first_row=first)
            denoiser, order = denoiser_for(model, config), np.zeros(state.ids.shape, dtype=np.int64)
            while not sampler.done(state):
                state = sampler.advance(denoiser, state)
                order[state.revealed] = state.step
                if texts is not None:
                    given = texts[first : first + len(order)].numpy()
                    state = state.replace(ids=np.where(state.revealed, given, state.ids))
            found.append(torch.from_numpy(state.ids.copy()))
            orders.append(torch.from_numpy(order.argsort(1, kind="stable").argsort(1)))
            bar.update(len(order))
    return torch.cat(found), torch.cat(orders)


def certainty_loss(
    student: nn.Module, ids: Tensor, order: Tensor, u: Tensor, mask_id: int, window: int, weight: float
) -> Tensor:
    """The loss of `certainty` at the states u of the blocks of texts `ids`.

    ids, order (rows, length); u (rows, blocks) in [0, 1): floor(u S) of the S tokens of a block are revealed.
    """
    rows, blocks = u.shape
    rank = order.view(rows, blocks, -1).argsort(-1).argsort(-1)  # within the block
    known = (u * rank.shape[2]).long()[..., None]
    masked = (rank >= known).view(ids.shape)
    learned = masked & (rank < known + window).view(ids.shape)
    log_p = _log_probs(student, ids.masked_fill(masked, mask_id), masked, learned, ids, blocks, mask_id)
    entropy = -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)
    right = (log_p.argmax(-1) == ids[learned]).float()
    sure = (right * entropy).sum() / right.sum().clamp_min(1)
    return F.nll_loss(log_p, ids[learned]) + weight * sure


def sdtt_loss(
    student: nn.Module,
    teacher: nn.Module,
    ids: Tensor,
    u: Tensor,
    mask_id: int,
    *,
    stride: float,
    teacher_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """The loss of `sdtt` from the states u of the blocks of texts `ids`; arguments as for `certainty_loss`."""
    blocks = u.shape[1]
    masked = mask_blocks(u, torch.rand(ids.shape, generator=generator, device=ids.device))
    noisy, now, target = ids.masked_fill(masked, mask_id), masked, None
    with torch.no_grad():
        for step in range(teacher_steps):
            log_p = _log_probs(teacher, noisy, now, now, ids, blocks, mask_id)
            if target is None:
                target = log_p.new_zeros(*ids.shape, log_p.shape[-1])
            target[now] = log_p
            if step == teacher_steps - 1:
                break
            share = now.view(len(ids), blocks, -1).float().mean(-1)  # masked, of each block
            chance = (stride / teacher_steps / share.clamp_min(1e-6)).repeat_interleave(ids.shape[1] // blocks, 1)
            reveal = now & (torch.rand(ids.shape, generator=generator, device=ids.device) < chance)
            drawn = (
                torch.multinomial(target[reveal].exp(), 1, generator=generator)[:, 0] if reveal.any() else ids[reveal]
            )
            noisy = noisy.masked_scatter(reveal, drawn)
            now = now & ~reveal
            if not now.any():
                break
    assert target is not None, "there is a step"
    log_p = _log_probs(student, ids.masked_fill(masked, mask_id), masked, masked, ids, blocks, mask_id)
    return F.kl_div(log_p, target[masked], reduction="batchmean", log_target=True)


def _log_probs(
    model: nn.Module, noisy: Tensor, masked: Tensor, at: Tensor, clean: Tensor, blocks: int, mask_id: int
) -> Tensor:
    """Log-probabilities over tokens at the positions `at`, (positions, mask_id) float32."""
    S = noisy.shape[1] // blocks
    sigma = block_noise_levels(masked, S)
    over = {"clean": clean, "block_length": S} if blocks > 1 else {}
    logits = model(noisy, sigma if blocks > 1 else sigma[:, 0], at, **over)
    return subs_log_probs(logits, mask_id)[:, :mask_id]


def distill(config: DistillConfig, *, progress: bool = True) -> Path:
    """Distill `config.teacher` and write the student to `config.folder` with its card; returns the folder.

    Raises ValueError for a length that the blocks of the teacher do not divide.
    """
    refuse_to_replace(Path(config.folder))
    info = inspect_checkpoint(config.teacher)
    teacher, tokenizer = load_checkpoint(config.teacher, device=config.device)
    learned = config.learned(info.config.block_lengths)
    student = Denoiser(replace(info.config, block_lengths=learned)).to(config.device).train()
    student.load_state_dict(teacher.state_dict())
    length = config.length or info.length or info.default_length
    for block_length in learned:
        if block_length and length % block_length:
            raise ValueError(f"length is {length}; the teacher's block length {block_length} must divide it")
    device = torch.device(config.device)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=config.precision == "bf16")
    generator, chosen = torch.Generator(device).manual_seed(config.seed), random_stream(config.seed, "distill")
    with autocast():
        written = _written(teacher, tokenizer, config, learned, length, progress)

    def loss_of(ids: Tensor, order: Tensor, u: Tensor) -> Tensor:
        if config.method == "certainty":
            return certainty_loss(student, ids, order, u, tokenizer.mask_id, config.window, config.certainty_weight)
        how: dict[str, Any] = {"stride": config.stride, "teacher_steps": config.teacher_steps, "generator": generator}
        return sdtt_loss(student, teacher, ids, u, tokenizer.mask_id, **how)

    optimizer = make_optimizer(student, learning_rate=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    ema, warmup = EMA(student, 0.999), min(100, 1 + config.steps // 10)
    with progress_bar(f"distill {config.method}", config.steps, unit="step", enabled=progress) as bar:
        for step in range(config.steps):
            S = chosen.choice(list(written))
            texts, orders = written[S]
            rows = torch.tensor(chosen.choices(range(len(texts)), k=config.batch_size))
            u = stratified_blocks(config.batch_size, length // S, generator, device)
            with autocast():
                loss = loss_of(texts[rows].to(device), orders[rows].to(device), u)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, peak=config.learning_rate, warmup_steps=warmup, total_steps=config.steps
                )
            optimizer.step()
            optimizer.zero_grad()
            ema.update(step)
            bar.update()
            if step % 10 == 0:  # reading the loss waits for the device
                bar.set_postfix_str(f"loss {loss.item():.3f}")
    with ema.applied():
        _save(student, config, length, info.corpus)
    return Path(config.folder)


def _written(
    teacher: Denoiser,
    tokenizer: Tokenizer,
    config: DistillConfig,
    learned: tuple[int, ...],
    length: int,
    progress: bool,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Texts of the teacher, and their order at each block length to learn; that of the whole text is its length.

    A teacher of blocks of one token writes them so: no other way is as careful.
    """
    known = teacher.config.block_lengths
    at_once = max(config.batch_size, min(512, MOST_LOGITS // (length * teacher.config.vocab_size)))
    how: dict[str, Any] = {"temperature": config.temperature, "top_p": config.top_p, "seed": config.seed}

    def write(block_length: int | None, texts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        careful = SamplerConfig(steps=length, **how, **resolve_blocks("low_confidence", block_length, known=known))
        return write_trajectories(
            teacher, tokenizer, careful, config.sequences, length, at_once, texts=texts, progress=progress
        )

    texts = write(1)[0] if 1 in known else None
    return {n or length: write(n, texts) for n in learned or (None,)}


def _save(student: Denoiser, config: DistillConfig, length: int, corpus: str) -> None:
    name, options = checkpoint_name(config.teacher), asdict(config)
    recipe = {"teacher": name, "corpus": corpus, "length": length, "method": config.method, "steps": config.steps}
    card = write_card(
        name=Path(config.folder).resolve().name,
        config=student.config,
        parameters=student.config.parameters,
        recipe=recipe,
        command=f"diffuapriel train --teacher {name} --method {config.method} --steps {config.steps}",
        limits=("Distilled to few passes: compare its variety with its teacher's before it replaces it.",),
    )
    save_checkpoint(config.folder, student, card=card, extra={"recipe": recipe, "options": options, "corpus": corpus})
