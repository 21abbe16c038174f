"""Our solution of each exercise, under the name of its check, for readers who go on without their own (use.py).

Those of the lessons from 09 on stand beside their checks, which compare with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from diffuapriel.lessons.check.advanced import baseline, blocks, kernels, recall, verifier
from diffuapriel.lessons.check.masking import MASK
from diffuapriel.model.layers import rms_norm
from diffuapriel.tales import language as tales

# 00


def count_masks(canvas):
    return (canvas.ids == canvas.mask_id).sum().item()


def canvas_text():
    return "Mia had a [MASK:3], but she lost it."


# 01


def corruption(ids, t, generator):
    hidden = torch.rand(ids.shape, generator=generator) < 0.999 * t[:, None]
    return ids.masked_fill(hidden, MASK)


def mask_exactly(ids, count, generator):
    positions = torch.rand(ids.shape, generator=generator).argsort(1)[:, :count]
    return ids.scatter(1, positions, MASK)


def loss(model, ids, t, generator):
    noisy = corruption(ids, t, generator)
    hidden = noisy == MASK
    logits = model(noisy, -torch.log(1 - 0.999 * t), hidden)[:, :MASK]
    cost = F.cross_entropy(logits, ids[hidden], reduction="none")
    weight = (1 / t)[:, None].expand(ids.shape)[hidden]
    return (weight * cost).sum() / ids.numel()


def turn(ids, p, count, greedy):
    row = torch.arange(len(ids))[:, None]
    positions = p.amax(-1).topk(count).indices
    chosen = p[row, positions].flatten(0, 1)
    tokens = chosen.argmax(-1) if greedy else torch.multinomial(chosen, 1)
    ids = ids.clone()
    ids[row, positions] = tokens.view(positions.shape)
    return ids


def reveal_chance(t, s):
    return (t - s) / t


# 02


def half_life(dt, A):
    return math.log(2) / (dt.mean() * A.abs())


def one_step(h, x, dt, A, B, C, D):
    h = torch.exp(dt * A) * h + dt * torch.outer(x, B)
    return h, h @ C + D * x


def _decay(dt, A):
    s = torch.cumsum(dt * A, 0)
    future = torch.ones(len(dt), len(dt), dtype=torch.bool).triu(1)
    return torch.exp((s[:, None] - s[None, :]).masked_fill(future, -math.inf))


def reverse_decay(dt, A):
    return _decay(dt.flip(0), A).flip(0, 1)


def chunk(H, x, dt, A, B, C, D):
    s = torch.cumsum(dt * A, 0)
    written = dt[:, None] * x
    inside = (_decay(dt, A) * (C @ B.T)) @ written
    before = torch.exp(s)[:, None] * (C @ H.T)
    left = torch.exp(s[-1] - s)[:, None]
    return inside + before + D * x, torch.exp(s[-1]) * H + (left * written).T @ B


def carry(writes, decays):
    entering, H = [], torch.zeros_like(writes[0])
    for write, decay in zip(writes, decays):
        entering.append(H)
        H = decay * H + write
    return torch.stack(entering)


# 03


def look_ahead(x, weight, bias):
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, 0, K - 1))
    return bias + sum(weight[j] * padded[:, K - 1 - j :][:, :length] for j in range(K))


def both_ways(u, ahead, back):
    return ahead(u) + back(u.flip(1)).flip(1)


def half_block(x, branch, shift, scale, gate):
    return x + gate[:, None] * branch(rms_norm(x) * (1 + scale[:, None]) + shift[:, None])


def block(x, mixer, mlp, six):
    return half_block(half_block(x, mixer, *six[:3]), mlp, *six[3:])


def mamba_block_parameters(d, N, H):
    return d * 2 * (2 * d + 2 * d + N + N + H) + 2 * (2 * d) * d + 2 * (d * 2 * d)


# 04


def closest_shape(count, target, shapes):
    return min(shapes, key=lambda shape: abs(count(*shape) - target))


def warmup_cosine(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))


def paired(a, b):
    return interval(a - b)


# 05


def reveal_counts(masked, steps):
    each, left = divmod(masked, steps)
    return [each + 1] * left + [each] * (steps - left)


def selection(rule, p, u, count, steps_left):
    if rule == "ancestral":
        return u < 1 / steps_left
    best, second = p.topk(2).values.unbind(-1)
    certainty = (p * p.clamp_min(1e-300).log()).sum(-1)
    scores = {"low_confidence": best, "margin": best - second, "entropy": certainty, "random": u}[rule]
    chosen = torch.zeros(len(p), dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[:count]] = True
    return chosen


def threshold_choice(confidence, threshold):
    return (confidence >= threshold) | (torch.arange(len(confidence)) == confidence.argmax())


def quality(texts):
    found = [tales.check(text, 1) for text in texts]
    count = len(texts)
    return (
        100 * sum(c.grammatical for c in found) / count,
        100 * sum(c.consistent for c in found) / count,
        100 * len(set(texts)) / count,
    )


def keep_top_p(p, share):
    ordered, indices = p.sort(descending=True)
    ordered = torch.where(ordered.cumsum(0) - ordered < share, ordered, 0)
    return torch.zeros_like(p).scatter(0, indices, ordered / ordered.sum())


def certainty(log_p, tokens, weight):
    cross = F.nll_loss(log_p, tokens)
    right = log_p.argmax(1) == tokens
    entropy = -(log_p.exp() * log_p).sum(1)
    return cross + weight * (right * entropy).sum() / right.sum().clamp_min(1)


# 06


def exponent(lengths, ms):
    x, y = (torch.tensor(values).double().log() for values in (lengths, ms))
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x * x).sum()).item()


def crossing(lengths, a, b):
    g = [math.log(x / y) for x, y in zip(a, b)]
    for i in range(len(g) - 1):
        if g[i] * g[i + 1] < 0:
            share = g[i] / (g[i] - g[i + 1])
            first, second = math.log(lengths[i]), math.log(lengths[i + 1])
            return math.exp(first + share * (second - first))
    return None


def attention_multiply_adds(d, L):
    return 12 * d**2 + 2 * L * d


# 07


def interval(values):
    mean, error = values.mean().item(), values.std().item() / len(values) ** 0.5
    return mean, mean - 1.96 * error, mean + 1.96 * error


def units(nats_per_token, tokens, byte_count):
    return math.exp(nats_per_token), nats_per_token * tokens / math.log(2) / byte_count


def ending_nats(costs, hidden):
    return (torch.where(hidden, costs, 0).sum(1) * costs.shape[1] / hidden.sum(1)).mean()


def distinct(rows, n):
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams)


# 08


def split_by_group(groups, share):
    train: list[str] = []
    validation: list[str] = []
    total = sum(map(len, groups))
    for names in sorted(groups, key=len):
        (validation if len(validation) < share * total else train).extend(names)
    return train, validation


def dig(text, word, encode):
    start = text.index(word)
    space = " " if text[start - 1 : start] == " " else ""
    return f"{text[:start]}[MASK:{len(encode(space + word))}]{text[start + len(word) :]}"


def longest_run(sample, training):
    best, before = 0, [0] * (len(training) + 1)
    for token in sample:
        now = [0] * (len(training) + 1)
        for j, other in enumerate(training):
            if token == other:
                now[j + 1] = before[j] + 1
        best, before = max(best, *now), now
    return best


OURS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(count_masks, canvas_text),
        *(corruption, mask_exactly, loss, turn, reveal_chance),
        *(half_life, one_step, reverse_decay, chunk, carry),
        *(look_ahead, both_ways, half_block, block, mamba_block_parameters),
        *(closest_shape, warmup_cosine, paired),
        *(reveal_counts, selection, threshold_choice, quality, keep_top_p, certainty),
        *(exponent, crossing, attention_multiply_adds),
        *(interval, units, ending_nats, distinct),
        *(split_by_group, dig, longest_run),
    )
}
OURS |= blocks.OURS | baseline.OURS | recall.OURS | kernels.OURS | verifier.OURS
